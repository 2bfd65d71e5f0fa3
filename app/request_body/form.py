"""Multipart forms: the fields that matter to the proxy; files are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.errors import InvalidRequest
from app.request_body.buffer import Buffer

MAX_PARTS = 1000
PART_BYTES = 64 * 1024  # the head of a part


def fields_in_form(body: Buffer, boundary: str, max_bytes: Mapping[str, int]) -> dict[str, list[str]]:
    """The values of these fields, each of at most so many bytes. Raises InvalidRequest."""
    if not boundary:
        raise InvalidRequest("the form has no boundary")
    try:
        found = _form_fields(body, boundary, max_bytes)
        return {name: [value.decode() for value in values] for name, values in found.items()}
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidRequest(f"the form cannot be parsed: {error}") from error


def with_model_field(body: Buffer, model: str, boundary: str) -> tuple[bytes, None]:
    """The form with this value of its field `model`, which comes first; all else keeps its bytes."""
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    field = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model.encode()
    _, *parts = (b"\r\n" + bytes(body[:])).split(delimiter)
    kept = [part for part in parts if not _is_model_field(part)]
    return delimiter.join((b"", field, *kept))[2:], None


def _is_model_field(part: bytes) -> bool:
    """`part`: with the line end that follows its delimiter. What begins otherwise is no part."""
    head, is_complete, _ = part.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")[1:] if is_complete and part.startswith(b"\r\n") else ()
    values = [line.partition(b":")[2] for line in lines if line.lower().startswith(b"content-disposition:")]
    return any(parse_options_header(value.decode("latin-1"))[1].get("name") == "model" for value in values)


def _form_fields(body: Buffer, boundary: str, max_bytes: Mapping[str, int]) -> dict[str, list[bytes]]:
    fields: dict[str, list[bytes]] = {name: [] for name in max_bytes}
    current = ""  # the wanted field whose data come
    for event in _form_events(body, boundary):
        match event:
            case Field(name=name):
                current = name if name in fields else ""
                if current:
                    fields[current].append(b"")
            case File(name=name):
                if name in fields:
                    raise ValueError(f'"{name}" is a file')
                current = ""
            case Data(data=data) if current:
                values = fields[current]
                values[-1] += data
                if len(values[-1]) > max_bytes[current]:  # four bytes a character
                    raise ValueError(f'"{current}" is longer than {max_bytes[current] // 4} characters')
    return fields


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
