"""The answer of a server, as HTTP/1.1 has it: its head parsed, its body as it arrives.

Small and strict: anything a server sends that is not HTTP/1.1 (RFC 9112) is BadAnswer, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from workers.relay.body import Chunked, Counted, FramedBody, SocketSink, UntilClosed
from workers.relay.connections import UpstreamConnection
from workers.relay.usage import UsageMeter

MAX_HEAD_BYTES = 64 * 1024
SMALL_BYTES = 64 * 1024  # an answer of no more is read as a whole before its head is sent
# Headers of an answer that are not the engine's to set: hop-by-hop ones (RFC 9110, 7.6.1), and those we set ourselves.
NOT_FORWARDED = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "server", "date", "set-cookie", "set-cookie2", "location", "x-request-id"),
    # What another host tells a browser about itself.
    *("www-authenticate", "strict-transport-security", "alt-svc", "clear-site-data", "nel", "report-to"),
}
NOT_FORWARDED_PREFIXES = ("access-control-", "x-llama-smart-proxy-")  # an answer with the latter would look like ours
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_FORWARDED_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5; gunicorn rejects any other
_LENGTH = re.compile(r"[0-9]{1,18}")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class BadAnswer(Exception):
    """The server sent something that is not HTTP/1.1."""


class NoAnswer(ConnectionError):
    """The server closed the connection before the end of its answer."""


@dataclass(slots=True)
class Reply:
    """An answer whose head has arrived. `headers`: those that go on to the client."""

    status: int
    headers: list[tuple[str, str]]
    body: FramedBody
    connection: UpstreamConnection
    is_kept: bool  # the connection may carry another request after the body
    is_stream: bool  # of events
    meter: UsageMeter
    undecoded: bytes = b""  # what arrived of the body with the head
    first: bytes = b""  # the same, decoded by `prepare`

    def prepare(self) -> None:
        """Decode the beginning of the body, and wait for the whole of a small one: a bad answer can still become an
        error of its own, because the client has not got its head. Raises NoAnswer, BadFraming, OSError."""
        if isinstance(self.body, Counted) and self.body.missing_bytes <= SMALL_BYTES:
            while len(self.undecoded) < self.body.missing_bytes:
                if not (data := self.connection.receive()):
                    raise NoAnswer("it closed the connection in mid-answer")
                self.undecoded += data
        if self.undecoded:
            self.first = self.payload(self.undecoded)

    def payload(self, data: bytes) -> bytes:
        """The body in these bytes from the connection; b"" is its end. Raises NoAnswer, BadFraming."""
        if not data:
            if not self.body.ends_with_connection():
                raise NoAnswer("it closed the connection in mid-answer")
            return b""
        if piece := self.body.payload(data):
            self.meter.read(piece)
        return piece

    def forwarded(self, data: bytes, sink: SocketSink) -> bytes:
        """What the sink's client gets for these bytes from the connection; b"" is its end. Raises NoAnswer, BadFraming.

        A chunk of a stream is forwarded as it is.
        """
        if sink.is_chunked and self.is_stream and isinstance(self.body, Chunked) and self.body.is_one_chunk(data):
            self.meter.read(data)
            return data
        payload = self.payload(data)
        return sink.framed(payload, self.body.is_over)


def read_reply(connection: UpstreamConnection, method: str, data: bytes) -> Reply:
    """The head of the answer to a request of this method; informational answers (1xx) are skipped. `data`: the first
    bytes that arrived.

    Raises NoAnswer, BadAnswer, OSError (TimeoutError included).
    """
    skipped_bytes = 0
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            data += _more(connection, data)
            continue
        version, status, headers = _parse(data[:end])
        data = data[end + 4 :]
        if status >= 200:
            break
        if status == 101:
            raise BadAnswer("it switches protocols unasked")
        skipped_bytes += end
        if skipped_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("its answer never begins")
    body, is_reusable = _body(method, version, status, headers)
    options = _connection_options(headers)
    undecoded = b"" if body.is_over and not is_reusable else data
    values = {name.lower(): value for name, value in headers}
    is_stream = values.get("content-type", "").lower().startswith("text/event-stream")
    is_kept = is_reusable and not is_stream and "close" not in options and (version == 1 or "keep-alive" in options)
    meter = UsageMeter(is_stream)
    return Reply(status, _forwarded(headers, options), body, connection, is_kept, is_stream, meter, undecoded)


def _more(connection: UpstreamConnection, data: bytes) -> bytes:
    """The next bytes of a head that begins with `data`."""
    if len(data) > MAX_HEAD_BYTES:
        raise BadAnswer("the head of its answer is too long")
    if _BARE_LF.search(data):  # it will never end
        raise BadAnswer("a line in the head of its answer ends without a carriage return")
    piece = connection.receive()
    if not piece:
        raise NoAnswer("it closed the connection in the head of its answer")
    return piece


def _parse(head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """HTTP's minor version, the status, the headers."""
    first, *rest = head.split(b"\r\n")
    status_line = _STATUS.fullmatch(first)
    if not status_line:
        raise BadAnswer("its answer has no status line")
    headers = []
    for line in rest:
        header = _FIELD.fullmatch(line)
        if not header:
            raise BadAnswer("a header of its answer cannot be parsed")
        headers.append((header[1].decode(), header[2].strip(b" \t").decode("latin-1")))
    return int(status_line[1]), int(status_line[2]), headers


def _body(method: str, version: int, status: int, headers: list[tuple[str, str]]) -> tuple[FramedBody, bool]:
    """The framing of the body (RFC 9112, 6.3), and whether the connection may carry another answer after it."""
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    if codings and (codings != ["chunked"] or lengths or version == 0):
        raise BadAnswer("the framing of its answer is ambiguous")
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadAnswer("the length of its answer cannot be parsed")
    if method == "HEAD" or status in (204, 304):
        # Some servers send a body all the same: it must not become the next request's answer.
        return Counted(0), False
    if codings:
        # llama-server closes the connection within 5 ms of an answer in chunks, although the head of the answer says
        # Keep-Alive (cpp-httplib in b11549): up to 7 % of the requests sent on such a connection found its end.
        return Chunked(), False
    return (Counted(int(lengths.pop())), True) if lengths else (UntilClosed(), False)


def _connection_options(headers: Iterable[tuple[str, str]]) -> set[str]:
    """What all Connection headers list, in lower case: options, and headers that end at this hop (RFC 9110, 7.6.1)."""
    values = [value for name, value in headers if name.lower() == "connection"]
    return {option.strip(" \t").lower() for value in values for option in value.split(",")}


def _forwarded(headers: list[tuple[str, str]], options: set[str]) -> list[tuple[str, str]]:
    dropped = NOT_FORWARDED | options
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in dropped
        and not name.lower().startswith(NOT_FORWARDED_PREFIXES)
        and _FORWARDED_VALUE.fullmatch(value)
    ]
