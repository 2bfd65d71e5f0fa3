"""Multipart forms: the field "model"; files are skipped."""

from __future__ import annotations

from collections.abc import Iterator

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.errors import InvalidRequest
from app.request_body.buffer import Buffer

MAX_PARTS = 1000
PART_BYTES = 64 * 1024  # the head of a part


def names_in_form(body: Buffer, boundary: str, max_bytes: int) -> list[str]:
    """The values of the field "model", each of at most `max_bytes`. Raises InvalidRequest."""
    if not boundary:
        raise InvalidRequest("the form has no boundary")
    try:
        return [value.decode() for value in _form_fields(body, boundary, "model", max_bytes)]
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidRequest(f"the form cannot be parsed: {error}") from error


def _form_fields(body: Buffer, boundary: str, field: str, max_bytes: int) -> list[bytes]:
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
                if len(values[-1]) > max_bytes:  # four bytes a character
                    raise ValueError(f'"{field}" is longer than {max_bytes // 4} characters')
    return values


def _form_events(body: Buffer, boundary: str) -> Iterator[Event]:
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
