"""Which model a request is for: named by its JSON body, by a field of its form, or by `?model=`.

The body is only read: the engine gets the client's own bytes. So the name that decides here must be the one that the
engine would read too, and anything that could be read in two ways is rejected.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.entities.media_urls import MediaUrls
from app.errors import InvalidRequest, MissingModel
from app.routes.incoming_request import MULTIPART, IncomingRequest
from app.routes.request_options import (
    CONVERSATION_HEADERS,
    Pair,
    RequestOptions,
    conversation_hash,
    keep_alive_seconds,
    requested_context,
)
from app.use_cases.body_checks.media import disallowed_media

MAX_VALUES = 1_000_000  # parsing them holds Python's lock for some 0.3 s; a picture or a long text is one value
MAX_DEPTH = 200  # of nested brackets; a JSON schema for a tool has some twenty
TOO_DEEP = f"the body's JSON is more than {MAX_DEPTH} levels deep"
MAX_PARTS = 1000  # of a form
MAX_NAME = 512  # characters
PART_BYTES = 64 * 1024  # the head of a form's part
LARGE_BYTES = 64 * 1024
OPTION_KEYS = {"stream", "keep_alive", "ttl", "num_ctx", "options"}

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

# A URL that the engine would fetch has one of these in its body: the last begins an escaped letter.
_MAY_NAME_URLS = (b"http", b"file:", b"\\u00")

_large_bodies = threading.Lock()


class _Content(NamedTuple):
    """What a body says: the values of its "model", and the members of its JSON object."""

    names: Sequence[str] = ()
    pairs: tuple[Pair, ...] = ()


def read_request(request: IncomingRequest, body: bytes) -> RequestOptions:
    """Which model the request is for, and its other options.

    Raises InvalidRequest for what cannot be parsed or is ambiguous, MissingModel without a model.
    """
    in_address = request.arguments("model")
    content = _content(request, body, is_named=any(in_address))
    model = _model([*_at_most_one(in_address, "the query"), *content.names])
    conversation = _conversation(request, content, [*in_address, *content.names])
    options = [pair for pair in content.pairs if pair[0] in OPTION_KEYS]
    if not options:
        return RequestOptions(model, conversation=conversation)
    streams = any(key == "stream" and value is True for key, value in options)
    return RequestOptions(model, streams, keep_alive_seconds(options), requested_context(options), conversation)


def _model(values: list[str]) -> str:
    names = {value.strip() for value in values} - {""}
    if not names:
        raise MissingModel
    if len(names) > 1:
        raise InvalidRequest("the query and the body name different models", param="model")
    (name,) = names
    if len(name) > MAX_NAME:
        raise InvalidRequest(f'"model" is longer than {MAX_NAME} characters', param="model")
    return name


def _at_most_one(names: list[str], place: str) -> list[str]:
    if len(names) > 1:
        raise InvalidRequest(f'{place} has more than one "model"', param="model")
    return names


def _conversation(request: IncomingRequest, content: _Content, names: list[str]) -> int | None:
    """Looked for only where the model may have several servers."""
    catalog = request.services.catalog
    if not catalog.knows_replicas or not catalog.has_replicas(names):
        return None
    return conversation_hash(map(request.header, CONVERSATION_HEADERS), content.pairs)


def _content(request: IncomingRequest, body: bytes, is_named: bool) -> _Content:
    """`is_named`: the query names the model, so the body need not."""
    if not body and (is_named or request.method in ("GET", "HEAD")):
        return _Content()
    with _exclusive() if len(body) > LARGE_BYTES else contextlib.nullcontext():
        if request.mimetype == MULTIPART:
            return _Content(_names_in_form(body, request.boundary))
        return _json_content(body, request.settings.media_urls, may_be_a_list=is_named)


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Parse one large body at a time, and fast: parsing holds Python's lock, and every other thread waits for it.

    The garbage collector would scan half a million new lists again and again: 110 ms instead of 18.
    """
    with _large_bodies:
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


# --- JSON ----------------------------------------------------------------------------------------------


def _json_content(body: bytes, media_urls: MediaUrls, may_be_a_list: bool) -> _Content:
    openers = body.count(b"[") + body.count(b"{")
    if openers + body.count(b",") > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES:,} JSON values")
    try:
        pairs = _DECODER.decode(body.decode())
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    # The depth is at most the number of opening brackets, and most bodies have few.
    if openers > MAX_DEPTH and _is_too_deep(body):
        raise InvalidRequest(TOO_DEEP)
    _check(body, pairs, media_urls)
    if isinstance(pairs, list) and may_be_a_list:
        return _Content()  # POST /lora-adapters expects a list, which cannot name a model
    if not isinstance(pairs, tuple):
        raise InvalidRequest("the body is not a JSON object")
    names = [value for key, value in pairs if key == "model"]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest('"model" is not a string', param="model")
    return _Content(_at_most_one(names, "the body"), pairs)


def _check(body: bytes, value: object, media_urls: MediaUrls) -> None:
    """Raises InvalidRequest for what the engine must not be asked for. Most bodies are not walked through for it."""
    if any(mark in body for mark in _MAY_NAME_URLS) and (found := disallowed_media(value, media_urls)):
        raise InvalidRequest(f"{found.param}: {found.message}", found.param)


def _is_too_deep(body: bytes) -> bool:
    """For valid JSON. Removes the innermost brackets again and again, which is faster than counting."""
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"\0").replace(b"{}", b"\0").replace(b"\0", b"")
        if not brackets:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# An object becomes a tuple of pairs, so that duplicate keys are seen; a float accepts numbers of any length.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=_refuse_constant)


# --- forms ---------------------------------------------------------------------------------------------


def _names_in_form(body: bytes, boundary: str) -> list[str]:
    """The field "model" of a multipart form; its files are skipped."""
    if not boundary:
        raise InvalidRequest("the form has no boundary")
    try:
        return _at_most_one([value.decode() for value in _form_fields(body, boundary, "model")], "the form")
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidRequest(f"the form cannot be parsed: {error}") from error


def _form_fields(body: bytes, boundary: str, field: str) -> list[bytes]:
    values: list[bytes] = []
    is_wanted = False
    for event in _form_events(body, boundary):
        match event:
            case Field(name=name):
                is_wanted = name == field
                if is_wanted:
                    values.append(b"")
            case File(name=name):
                if name == field:
                    raise ValueError(f'"{field}" is a file')
                is_wanted = False
            case Data(data=data) if is_wanted:
                values[-1] += data
                if len(values[-1]) > 4 * MAX_NAME:  # bytes of that many characters
                    raise ValueError(f'"{field}" is longer than {MAX_NAME} characters')
    return values


def _form_events(body: bytes, boundary: str) -> Iterator[Event]:
    """Fed in pieces, so that the head of a part has a limit: the decoder splits it into lines, at 80 times its size."""
    decoder = MultipartDecoder(boundary.encode("latin-1"), max_parts=MAX_PARTS)
    for start in range(0, len(body), PART_BYTES):
        decoder.receive_data(body[start : start + PART_BYTES])
        while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
            yield event
        if isinstance(event, Epilogue):
            return
        if len(decoder.buffer) > PART_BYTES:
            raise ValueError(f"a part's head is longer than {PART_BYTES} bytes")
    decoder.receive_data(None)
    while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
        yield event
