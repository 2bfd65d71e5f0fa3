"""Rewriting: a JSON body with its fields changed by a model's rules.

Works on the text: what no rule mentions keeps its bytes, so that numbers, escapes and pictures arrive as sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.entities.request_rules import SYSTEM_PROMPT, Fields, RequestRules
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.content import BodyContent, BodyFormat, read_content

# The field of the system prompt, on routes whose bodies have one. On the others it is the first of the messages.
SYSTEM_FIELDS = {
    **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), "system"),
    **dict.fromkeys(("/v1/responses", "/responses", "/v1/responses/input_tokens"), "instructions"),
}
_SYSTEM_ROLES = ("system", "developer")
_SPACE = re.compile(r"[ \t\n\r]*+")
_EMPTY_LIST = re.compile(r"\[[ \t\n\r]*+\]")
# An empty list is no list for llama-server, which computes on with what was cached under other scales (b11549,
# server-context.cpp, launch_slot_with_task).
_NO_ADAPTERS = '[{"id":0,"scale":0}]'
_DECODER = json.JSONDecoder(parse_int=float)  # a float accepts numbers of any length


def rewritten(body: Buffer, rules: RequestRules, path: str, form: BodyFormat) -> tuple[bytes, BodyContent]:
    """The body after the rules, and what it says then. `body`: one that read_content accepts. `path`: of the request.

    Raises InvalidRequest if what it says then may not be sent to an engine.
    """
    new = _rewritten(str(body[:], "latin-1"), rules, path).encode("latin-1")
    return new, read_content(new, form)


def with_model(body: Buffer, model: str) -> tuple[bytes, None]:
    """The body, one that read_content accepts, with another name of its model. Raises InvalidRequest for a list."""
    text = str(body[:], "latin-1")
    if not text.startswith("{", _skip(text, 0)):
        raise InvalidRequest("the body is not a JSON object")
    return _object(_fields(text) | {"model": json.dumps(model)}).encode("latin-1"), None


def _rewritten(text: str, rules: RequestRules, path: str) -> str:
    """`text`: each byte of the body as one character. Only the structure and the names are looked at."""
    if not text.startswith("{", _skip(text, 0)):
        return text  # a list has no fields
    fields = _fields(text)
    if name := SYSTEM_FIELDS.get(path):
        rules = _renamed(rules, name)
    elif (messages := fields.get("messages", "")).startswith("["):
        fields["messages"] = _with_system_prompt(messages, rules)
    _change(fields, _without(rules, SYSTEM_PROMPT))
    if "lora" in rules.default and _EMPTY_LIST.fullmatch(fields["lora"]):
        fields["lora"] = _NO_ADAPTERS
    return _object(fields)


def _changed(fields: dict[str, str], rules: RequestRules) -> str:
    """The object with these fields, after the rules. Changes `fields`."""
    _change(fields, rules)
    return _object(fields)


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


def _change(fields: dict[str, str], rules: RequestRules) -> None:
    for name in rules.strip:
        fields.pop(name, None)
    for name, value in rules.default.items():
        if fields.get(name, "null") == "null":
            fields[name] = json.dumps(value)
        elif isinstance(value, Mapping) and fields[name].startswith("{"):
            fields[name] = _changed(_fields(fields[name]), RequestRules(default=value))
    for name, value in rules.set.items():
        if isinstance(value, Mapping) and fields.get(name, "").startswith("{"):
            fields[name] = _changed(_fields(fields[name]), RequestRules(set=value))
        else:
            fields[name] = json.dumps(value)


def _fields(text: str) -> dict[str, str]:
    """The values of an object's fields, as they are written. Of fields with one name, the engine reads the last."""
    fields: dict[str, str] = {}
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        _, end = _DECODER.raw_decode(text, at)
        name = json.loads(text[at:end].encode("latin-1"))
        start = _skip(text, _skip(text, end) + 1)
        _, end = _DECODER.raw_decode(text, start)
        fields[name] = text[start:end]
        at = _next(text, end)
    return fields


def _with_system_prompt(messages: str, rules: RequestRules) -> str:
    """The list of messages, its system prompt after the rules. Those at its beginning are the system prompt."""
    first = next((at for at, message in _elements(messages) if not _is_system(message)), len(messages) - 1)
    given, rest = messages[_skip(messages, 1) : first].rstrip(" \t\n\r,"), messages[first:-1].rstrip(" \t\n\r")
    if SYSTEM_PROMPT in rules.strip or SYSTEM_PROMPT in rules.set:
        given = ""
    prompt = rules.set.get(SYSTEM_PROMPT, rules.default.get(SYSTEM_PROMPT))
    if not given and prompt is not None:
        given = json.dumps({"role": "system", "content": prompt})
    return "[" + ",".join(filter(None, (given, rest))) + "]"


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    """Where each element of a list begins, and what it is; its strings as latin-1."""
    at = _skip(text, 1)
    while text[at] != "]":
        element, end = _DECODER.raw_decode(text, at)
        yield at, element
        at = _next(text, end)


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES


def _skip(text: str, at: int) -> int:
    """Where the next thing that is no white space is."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _next(text: str, end: int) -> int:
    """Where the next field or element begins, or the closing bracket is; `end`: of the last value."""
    at = _skip(text, end)
    return _skip(text, at + 1) if text[at] == "," else at


def _renamed(rules: RequestRules, name: str) -> RequestRules:
    """Rules about the field `name` where these are about the system prompt."""
    strip = {name if each == SYSTEM_PROMPT else each for each in rules.strip}
    return RequestRules(_with_new_name(rules.set, name), _with_new_name(rules.default, name), frozenset(strip))


def _with_new_name(fields: Fields, name: str) -> Fields:
    return {name if each == SYSTEM_PROMPT else each: value for each, value in fields.items()}


def _without(rules: RequestRules, name: str) -> RequestRules:
    kept = [{each: value for each, value in fields.items() if each != name} for fields in (rules.set, rules.default)]
    return replace(rules, set=kept[0], default=kept[1], strip=rules.strip - {name})
