"""The options in the body of POST /plan: those of the `plan` command, with the keys of the settings."""

from __future__ import annotations

from typing import Any

from app.entities.media_urls import DATA_ONLY
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.json_body import read_json
from app.use_cases.launch.known_options import DEVICE_LISTS
from app.use_cases.launch.parsed_args import COMPANIONS
from app.use_cases.launch.typed_arguments import (
    PATTERNS,
    TypedArguments,
    WrongArgument,
    read_arguments,
)
from app.use_cases.launch.typed_options import CHOICES, INTEGERS, SWITCHES

MAX_WORDS = 100
MAX_WORD_CHARS = 1000


def plan_options(body: Buffer, is_admin: bool) -> dict[str, Any]:
    """The options by name, without `model`; `args` are TypedArguments. Raises InvalidRequest."""
    fields = {key: value for key, value in read_json(body, DATA_ONLY, may_be_a_list=False) if value is not None}
    arguments = _arguments(fields.pop("args", []), is_admin)
    options = {key: _option(key, value) for key, value in fields.items() if key != "model"}
    return options | {"args": arguments}


def _arguments(words: object, is_admin: bool) -> TypedArguments:
    """Files are not read for a request, and only an admin's patterns, which can take any time to match, are tried."""
    if not isinstance(words, list) or len(words) > MAX_WORDS or not all(_is_word(word) for word in words):
        raise InvalidRequest(f"args must be a list of at most {MAX_WORDS} words of llama-server's command line", "args")
    try:
        arguments = read_arguments(words)
    except WrongArgument as error:
        raise InvalidRequest(f"args: {error}", param="args") from error
    if refused := arguments.names & (COMPANIONS | DEVICE_LISTS | (frozenset() if is_admin else PATTERNS)):
        raise InvalidRequest(f"args: {min(refused)} cannot be used here; use the command plan", param="args")
    return arguments


def _is_word(word: object) -> bool:
    return isinstance(word, str) and len(word) <= MAX_WORD_CHARS


def _option(key: str, value: object) -> object:
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{key} must be true or false", param=key)
    elif key in INTEGERS:
        low, high = INTEGERS[key]
        if not isinstance(value, float) or value % 1 or not low <= value <= high:  # JSON's numbers are read as floats
            raise InvalidRequest(f"{key} must be an integer from {low} to {high}", param=key)
        return int(value)
    elif key in CHOICES:
        if value not in CHOICES[key]:
            raise InvalidRequest(f"{key} must be one of {', '.join(CHOICES[key])}", param=key)
    else:
        known = ", ".join(sorted(("args", *INTEGERS, *SWITCHES, *CHOICES)))
        raise InvalidRequest(f"unknown option {key[:100]!r}; there are: {known}", param=key[:100])
    return value
