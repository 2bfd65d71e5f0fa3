"""JSON bodies, read strictly: one meaning, a bounded depth and number of values."""

from __future__ import annotations

import json
import re

from app.entities.media_urls import MediaUrls
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.long_strings import LONG_BYTES, shortened
from app.use_cases.body_checks.constraints import excessive_constraint
from app.use_cases.body_checks.media import disallowed_media

MAX_VALUES = 1_000_000  # a picture or a long text is one value
MAX_DEPTH = 200  # of nested brackets; a JSON schema for a tool has some twenty
TOO_DEEP = f"the body's JSON is more than {MAX_DEPTH} levels deep"

# A URL that the engine would fetch has one of these in its body: the last begins an escaped letter.
_MAY_NAME_URLS = (b"http", b"file:", b"\\u00")

Pair = tuple[str, object]  # of a JSON object: objects are read as tuples of pairs

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def values_bound(text: bytes) -> int:
    """At least as many as the JSON values in `text`."""
    return text.count(b"[") + text.count(b"{") + text.count(b",")


def read_json(body: Buffer, media_urls: MediaUrls, may_be_a_list: bool) -> tuple[Pair, ...]:
    """The members of the body's object, in their order, duplicates included. Objects in it are tuples of pairs, and a
    string of more than LONG_BYTES is its beginning. Raises InvalidRequest.

    `may_be_a_list`: POST /lora-adapters expects one, which has no members and cannot name a model.
    """
    text = body if isinstance(body, bytes) and len(body) <= LONG_BYTES else shortened(body)
    if values_bound(text) > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES:,} JSON values")
    try:
        pairs = _DECODER.decode(text.decode())
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    # The depth is at most the number of opening brackets, and most bodies have few.
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep(text):
        raise InvalidRequest(TOO_DEEP)
    _check(text, pairs, media_urls)
    if isinstance(pairs, list) and may_be_a_list:
        return ()
    if not isinstance(pairs, tuple):
        raise InvalidRequest("the body is not a JSON object")
    return pairs


def _check(text: bytes, value: object, media_urls: MediaUrls) -> None:
    """Raises InvalidRequest for what the engine must not be asked for. Most bodies are not walked through for it."""
    found = disallowed_media(value, media_urls) if any(mark in text for mark in _MAY_NAME_URLS) else None
    if found := found or excessive_constraint(value):
        raise InvalidRequest(f"{found.param}: {found.message}", found.param)


def _is_too_deep(text: bytes) -> bool:
    """For valid JSON. Removes the innermost brackets again and again, which is faster than counting."""
    brackets = _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"\0").replace(b"{}", b"\0").replace(b"\0", b"")
        if not brackets:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# An object becomes a tuple of pairs, so that duplicate keys are seen; a float accepts numbers of any length.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=_refuse_constant)
