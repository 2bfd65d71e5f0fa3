"""Which model a request is for: said by its JSON body, a field of its form, or `?model=`.

Only read, never written: what the engine gets are the client's own bytes. So the name that decides here must be the one
the engine would read too, and whatever could be read in two ways is refused.
"""

from __future__ import annotations

import json
import re

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.errors import InvalidRequest, MissingModel

MAX_VALUES = 1_000_000  # reading them holds Python's lock: some 0.3 s; a picture or a long text is one value
MAX_DEPTH = 200  # of brackets in brackets; a JSON schema for a tool has some twenty
TOO_DEEP = f"the body's JSON is more than {MAX_DEPTH} levels deep"
MAX_PARTS = 1000  # of a form
MAX_NAME = 512  # characters

# A string takes its inner brackets with it.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


def model_name(body: bytes) -> str:
    """The name of the model that the present request, with this body, is for; white space around it aside.

    Raises InvalidRequest for what cannot be read or says two things, MissingModel where nothing is said.
    """
    said = [*_in_query(), *_in_body(body)]
    names = {name.strip() for name in said} - {""}
    if not names:
        raise MissingModel
    if len(names) > 1:
        raise InvalidRequest("the address names one model and the body another", param="model")
    (name,) = names
    if len(name) > MAX_NAME:
        raise InvalidRequest(f'"model" is longer than {MAX_NAME} characters', param="model")
    return name


def _in_query() -> list[str]:
    return _at_most_one(request.args.getlist("model"), "the address")


def _in_body(body: bytes) -> list[str]:
    if not body and (request.method in ("GET", "HEAD") or request.args.get("model")):
        return []
    if request.mimetype == "multipart/form-data":
        return _in_form(body, request.mimetype_params.get("boundary", ""))
    return _in_json(body)


def _at_most_one(names: list[str], place: str) -> list[str]:
    if len(names) > 1:
        raise InvalidRequest(f'{place} has more than one "model"', param="model")
    return names


# --- JSON ----------------------------------------------------------------------------------------------


def _in_json(body: bytes) -> list[str]:
    openers = body.count(b"[") + body.count(b"{")
    if openers + body.count(b",") > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES:,} JSON values")
    try:
        # An object becomes a tuple, so that no key is lost; a number is not worked out, so that none is too long.
        pairs = json.loads(body.decode(), object_pairs_hook=tuple, parse_int=_Number, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    # It is no deeper than it has opening brackets, and most bodies have few.
    if openers > MAX_DEPTH and _is_too_deep(body):
        raise InvalidRequest(TOO_DEEP)
    if not isinstance(pairs, tuple):
        raise InvalidRequest("the body is not a JSON object")
    names = [value for key, value in pairs if key == "model"]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest('"model" is not a string', param="model")
    return _at_most_one(names, "the body")


def _is_too_deep(body: bytes) -> bool:
    """For JSON that was found sound: what is none could have a string for every two bytes."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        mark = match[0]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > MAX_DEPTH:
            return True
    return False


class _Number:
    """A JSON number, whatever its length."""

    def __init__(self, text: str) -> None:
        pass


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
    decoder = MultipartDecoder(boundary.encode("latin-1"), max_parts=MAX_PARTS)
    decoder.receive_data(body)
    decoder.receive_data(None)
    values: list[bytes] = []
    is_wanted = False
    while True:
        match decoder.next_event():
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
            case Epilogue() | NeedData():
                return values
