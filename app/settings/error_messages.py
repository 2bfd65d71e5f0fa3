"""Validation errors as one-line messages, each with the place of the error.

A message contains the rejected value only where it cannot be a secret.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.settings.schema_keys import Place, format_place, known_part, may_be_secret, nearest_key

MAX_VALUE_LENGTH = 60

_FIXED_SET = ("literal_error", "enum")  # a value outside a fixed set

# pydantic's kind of error -> the expected value.
_EXPECTED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), lambda _: "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), lambda _: "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda _: "true or false"),
    **dict.fromkeys(("byte_size", "byte_size_unit"), lambda _: "a size like 256MiB"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), lambda _: "a mapping of keys to values"),
    **dict.fromkeys(("string_type", "path_type"), lambda _: "text"),
    "list_type": lambda _: 'a list like ["one", "two"]',
    "greater_than": lambda bound: f"greater than {bound['gt']:g}",
    "greater_than_equal": lambda bound: f"at least {bound['ge']:g}",
    "less_than_equal": lambda bound: f"at most {bound['le']:g}",
}


def error_messages(error: ValidationError) -> Iterator[tuple[Place, str]]:
    """The place and message of each error. The errors of a union's members are merged into one."""
    groups: defaultdict[Place, list[ErrorDetails]] = defaultdict(list)
    for problem in error.errors(include_url=False):
        groups[known_part(problem["loc"])[0]].append(problem)
    for place, problems in groups.items():
        yield _without_value(_without_key_marker(place)), _message(place, problems)


def _message(place: Place, problems: Sequence[ErrorDetails]) -> str:
    first = problems[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        if _without_value(place) != place:
            return "unknown key; a space is missing after its colon"
        return f"unknown key{nearest_key(place)}"
    if kind == "missing":
        return "is missing"
    if ours := next((problem["msg"] for problem in problems if problem["type"] == "value_error"), ""):
        return ours.removeprefix("Value error, ")
    value = _value(place, first["input"])
    if kind in _FIXED_SET and len(problems) == 1:
        return f"must be one of {_choices(first)}{value}"
    expected = [_choices(problem) if problem["type"] in _FIXED_SET else _expected(problem) for problem in problems]
    return f"must be {' or '.join(dict.fromkeys(expected))}{value}"


def _expected(problem: ErrorDetails) -> str:
    words = _EXPECTED.get(problem["type"])
    return words(problem.get("ctx", {})) if words else f"valid ({problem['msg'].lower()})"


def _choices(problem: ErrorDetails) -> str:
    """The allowed values; pydantic lists them as "'a', 'b' or 'c'"."""
    return str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")


def _value(place: Place, value: object) -> str:
    """The end of a message, with the rejected value; "" if that may be a secret."""
    match value:
        case None:
            return ", not null"
        case dict():
            return ", not a mapping"
        case list():
            return ", not a list"
        case _ if may_be_secret(place) or not isinstance(value, str | int | float):
            return ""
        case bool():
            return f", not {str(value).lower()}"
        case str() if len(value) > MAX_VALUE_LENGTH:
            value = f"{value[:MAX_VALUE_LENGTH]}..."
    return f", not {value!r}"


def _without_key_marker(place: Place) -> Place:
    return tuple(part for part in place if part != "[key]")


def _without_value(place: Place) -> Place:
    """`{sha256:KEY}`, without a space, is a key for YAML: what follows its colon may be a secret."""
    *above, last = place or ("",)
    name, colon, _ = str(last).partition(":")
    is_unknown = colon and may_be_secret((*above, name))
    return (*above, f"{name}:") if is_unknown else place


def error_line(place: Place, message: str) -> str:
    return f"{format_place(place)}: {message}" if place else message
