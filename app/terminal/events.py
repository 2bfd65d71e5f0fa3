"""Server-sent events, as the service writes them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

COMMENT = "comment"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`kind`: `message` if the stream names none; COMMENT for a line that clients ignore."""

    kind: str
    data: str


def server_events(pieces: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events of a stream that arrives in pieces, which may end anywhere."""
    kind, data = "message", list[str]()
    for line in _lines(pieces):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(kind, "\n".join(data))
            kind, data = "message", []
        elif not field:
            yield ServerEvent(COMMENT, value)
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for piece in pieces:
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
