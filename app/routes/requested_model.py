"""Which model a request is for: said by its JSON body, a field of its form, or `?model=`.

Only read, never written: what the engine gets are the client's own bytes. So the name that decides here must be the one
the engine would read too, and whatever could be read in two ways is refused.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.errors import InvalidRequest, MissingModel
from app.routes.conversation import conversation as conversation_of
from app.routes.incoming_request import IncomingRequest
from app.routes.request_options import keep_seconds, wanted_context

MAX_VALUES = 1_000_000  # reading them holds Python's lock: some 0.3 s; a picture or a long text is one value
MAX_DEPTH = 200  # of brackets in brackets; a JSON schema for a tool has some twenty
TOO_DEEP = f"the body's JSON is more than {MAX_DEPTH} levels deep"
MAX_PARTS = 1000  # of a form
MAX_NAME = 512  # characters

PART_BYTES = 64 * 1024  # the head of a form's part
LARGE_BYTES = 64 * 1024

Pair = tuple[str, object]
Read = tuple[list[str], list[Pair], int | None]
OURS = {"stream", "keep_alive", "ttl", "num_ctx", "options"}

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_large_bodies = threading.Lock()


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What of a request is read."""

    model: str  # its name, white space around it aside
    streams: bool = False  # it wants its answer as events
    keep_seconds: float | None = None  # so long its model is to stay afterwards; None: as the settings say
    num_ctx: int | None = None  # tokens of context it wants
    conversation: int | None = None  # the one it belongs to, where its model may have several servers


def read_request(request: IncomingRequest, body: bytes) -> RequestOptions:
    """Which model the request, with this body, is for, and how it wants its answer.

    Raises InvalidRequest for what cannot be read or says two things, MissingModel where nothing is said.
    """
    named, ours, conversation = _in_body(request, body)
    said = [*_at_most_one(request.arguments("model"), "the address"), *named]
    names = {name.strip() for name in said} - {""}
    if not names:
        raise MissingModel
    if len(names) > 1:
        raise InvalidRequest("the address names one model and the body another", param="model")
    (name,) = names
    if len(name) > MAX_NAME:
        raise InvalidRequest(f'"model" is longer than {MAX_NAME} characters', param="model")
    if not ours:
        return RequestOptions(name, conversation=conversation)
    streams = any(key == "stream" and value is True for key, value in ours)
    return RequestOptions(name, streams, keep_seconds(ours), wanted_context(ours), conversation)


def _in_body(request: IncomingRequest, body: bytes) -> Read:
    """The names in it, of its JSON what else is read here, and its conversation."""
    if not body and (request.method in ("GET", "HEAD") or _is_named_by_address(request)):
        return [], [], None
    if len(body) <= LARGE_BYTES:
        return _in_some_body(request, body)
    with _in_turn():
        return _in_some_body(request, body)


def _is_named_by_address(request: IncomingRequest) -> bool:
    return any(request.arguments("model"))


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """One large body at a time, and quickly: reading holds Python's lock, and whoever else wants it waits for them all.

    The collector would look at half a million new lists again and again: 110 ms instead of 18.
    """
    with _large_bodies:
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def _in_some_body(request: IncomingRequest, body: bytes) -> Read:
    if request.mimetype == "multipart/form-data":
        names, ours, pairs = _in_form(body, request.boundary), list[Pair](), tuple[Pair, ...]()
    else:
        names, ours, pairs = _in_json(body, may_be_a_list=_is_named_by_address(request))
    catalog = request.services.catalog
    if not catalog.knows_replicas or not catalog.has_replicas([*request.arguments("model"), *names]):
        return names, ours, None
    return names, ours, conversation_of(request, pairs)


def _at_most_one(names: list[str], place: str) -> list[str]:
    if len(names) > 1:
        raise InvalidRequest(f'{place} has more than one "model"', param="model")
    return names


# --- JSON ----------------------------------------------------------------------------------------------


def _in_json(body: bytes, may_be_a_list: bool) -> tuple[list[str], list[Pair], tuple[Pair, ...]]:
    """The names in it, what else is read here, and all of it."""
    openers = body.count(b"[") + body.count(b"{")
    if openers + body.count(b",") > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES:,} JSON values")
    try:
        pairs = _DECODER.decode(body.decode())
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    # It is no deeper than it has opening brackets, and most bodies have few.
    if openers > MAX_DEPTH and _is_too_deep(body):
        raise InvalidRequest(TOO_DEEP)
    if isinstance(pairs, list) and may_be_a_list:
        return [], [], ()  # as POST /lora-adapters takes, which has no place for a name
    if not isinstance(pairs, tuple):
        raise InvalidRequest("the body is not a JSON object")
    names = [value for key, value in pairs if key == "model"]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest('"model" is not a string', param="model")
    return _at_most_one(names, "the body"), [pair for pair in pairs if pair[0] in OURS], pairs


def _is_too_deep(body: bytes) -> bool:
    """For JSON that was found sound. The innermost brackets are taken off, again and again: quicker than counting."""
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"\0").replace(b"{}", b"\0").replace(b"\0", b"")
        if not brackets:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# An object becomes a tuple, so that no key is lost; as float no number is too long.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=_refuse_constant)


# --- forms ---------------------------------------------------------------------------------------------


def _in_form(body: bytes, boundary: str) -> list[str]:
    """The fields named "model" of a multipart form, whose files are passed over."""
    if not boundary:
        raise InvalidRequest("the form has no boundary")
    try:
        return _at_most_one([value.decode() for value in _form_fields(body, boundary, "model")], "the form")
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidRequest(f"the form cannot be read: {error}") from error


def _form_fields(body: bytes, boundary: str, wanted: str) -> list[bytes]:
    values: list[bytes] = []
    is_wanted = False
    for event in _form_events(body, boundary):
        match event:
            case Field(name=name):
                is_wanted = name == wanted
                if is_wanted:
                    values.append(b"")
            case File(name=name):
                if name == wanted:
                    raise ValueError(f'"{wanted}" is a file')
                is_wanted = False
            case Data(data=data) if is_wanted:
                values[-1] += data
                if len(values[-1]) > 4 * MAX_NAME:  # bytes of that many characters
                    raise ValueError(f'"{wanted}" is longer than {MAX_NAME} characters')
    return values


def _form_events(body: bytes, boundary: str) -> Iterator[Event]:
    """Fed in pieces: what is left over after each is the head of a part, and that is split into as many lines as it
    has, at 80 times its size."""
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
