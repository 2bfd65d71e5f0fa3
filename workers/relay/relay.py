"""The data path: one request to its server, the answer back to the client, byte for byte.

Where the client's socket can be had, and was told of the very framing the server uses, the bytes go from socket to
socket: small answers here, others by the mover's thread. Else they are pieces for WSGI.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from app.errors import (
    BadUpstream,
    ClientDisconnected,
    Draining,
    ProxyError,
    SpawnFailed,
    UpstreamCrashed,
    UpstreamTimeout,
)
from app.ports import Address, TokenUsage, WatchedClient
from workers.relay.forwarded_headers import request_headers, response_headers
from workers.relay.framing import LAST_CHUNK, BadFraming, Chunked, Counted, FramedBody, chunk
from workers.relay.stream_mover import ClientGone, Stream, StreamMover
from workers.relay.upstream import (
    BadAnswer,
    NoAnswer,
    Reply,
    UpstreamConnection,
    UpstreamConnections,
    read_reply,
    request_bytes,
)
from workers.relay.usage import Tail

log = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024  # an answer of no more is read whole, and sent at once
MOST_PADDING_BYTES = 64 * 1024
OUT_OF_SOMETHING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
IDEMPOTENT = ("GET", "HEAD")
WITH_BODY = ("POST", "PUT", "PATCH")  # servers read the bodies of these


class Direct(Protocol):
    """The client's socket (workers/gunicorn_worker/client_socket.py)."""

    @property
    def socket(self) -> socket.socket: ...
    def head(self) -> bytes: ...
    def mark_sent(self, size_bytes: int) -> None: ...
    def refuse(self, problem: ProxyError) -> bytes: ...


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """An engine's answer whose headers are here and whose body is on its way, to be had in one of two ways."""

    status: int
    headers: list[tuple[str, str]]
    body: FramedBody  # how it is framed
    # Ends early with an error event (event streams) or ConnectionResetError (all others). Its return value says
    # whether it was whole.
    chunks: Generator[bytes, None, bool]
    send_to: Callable[[Direct], bool]  # sends it, head and all; ends and returns as `chunks`
    is_stream: bool
    usage: Callable[[], TokenUsage | None]  # tokens, once it is over
    close: Callable[[], None]  # must be called whether or not the body was ever begun


class Relay:
    """Sends requests to llama-servers. `is_closing` tells a cut from a crash."""

    def __init__(
        self, first_byte_seconds: float, stall_seconds: float, mover: StreamMover, is_closing: Callable[[], bool]
    ) -> None:
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self._mover = mover
        self._is_closing = is_closing
        self._connections = UpstreamConnections()

    def send(
        self, to: Address, method: str, target: str, said: Callable[[str], str], body: bytes, client: WatchedClient
    ) -> UpstreamAnswer:
        """Forward a request and wait for the head of its answer. `said` is the text of a header, "" without it.

        Raises UpstreamCrashed, BadUpstream or UpstreamTimeout when none comes, and ClientDisconnected: the connection
        to the engine is shut within milliseconds then, so that it stops generating.
        """
        request = request_bytes(method, target, request_headers(said, to), body)
        try:
            reply = self._begun(self._ask(to.port, method, request, client))
        except (OSError, BadAnswer, BadFraming) as error:
            raise self._translated(error, to, client) from error

        def close() -> None:
            client.on_disconnect(None)
            # A server that did not read all of a request would take the rest for the next one.
            is_read = reply.status < 300 and (not body or method in WITH_BODY)
            if reply.is_kept and is_read and reply.body.is_over and not client.gone:
                self._connections.give_back(reply.connection)
            else:
                reply.connection.close()

        is_stream = reply.header("content-type").lower().startswith("text/event-stream")
        tail = Tail()
        chunks = self._chunks(reply, to, client, is_stream, tail)
        headers_ = response_headers(reply)

        def send_to(direct: Direct) -> bool:
            return self._send_to(direct, reply, to, client, is_stream, tail)

        def usage() -> TokenUsage | None:
            return None if reply.header("content-encoding") else tail.usage(is_stream)

        return UpstreamAnswer(reply.status, headers_, reply.body, chunks, send_to, is_stream, usage, close)

    def forget(self, port: int) -> None:
        """The server that listened there has ended."""
        self._connections.forget(port)

    def close(self) -> None:
        """Let go of the connections that are kept."""
        self._connections.close()

    def _ask(self, port: int, method: str, request: bytes, client: WatchedClient) -> Reply:
        """Once more on a new connection if a kept one had been closed before the request was there, or gave no byte
        of an answer to one that may be repeated. A POST that was sent may be running."""
        connection = self._connections.take(port)
        if connection.is_reused:
            try:
                return self._ask_on(connection, method, request, client)
            except _Unsent:
                pass
            except NoAnswer:
                if method not in IDEMPOTENT or client.gone:
                    raise
            connection = self._connections.new(port)
        try:
            return self._ask_on(connection, method, request, client)
        except _Unsent as error:
            raise NoAnswer(str(error)) from error

    def _ask_on(self, connection: UpstreamConnection, method: str, request: bytes, client: WatchedClient) -> Reply:
        connection.patience_seconds, connection.on_silence = self._first_byte_seconds, client.begin
        try:
            client.on_disconnect(connection.shut)
            if len(request) > SMALL_BYTES:
                client.begin()
            try:
                connection.send(request)
            except (BrokenPipeError, ConnectionResetError) as error:
                # An engine that refuses before it has read all of the body may have said so.
                try:
                    return read_reply(connection, method)
                except (NoAnswer, ConnectionResetError):
                    raise _Unsent(str(error)) from error
            return read_reply(connection, method)
        except ConnectionResetError as error:
            connection.close()
            raise NoAnswer(str(error)) from error
        except BaseException:
            connection.close()
            raise

    def _begun(self, reply: Reply) -> Reply:
        """The reply, with all of a small body: one that is cut is an error of its own, before its head went out."""
        reply.connection.patience_seconds = self._stall_seconds
        try:
            if reply.is_small(SMALL_BYTES):
                reply.complete()
        except BaseException:
            reply.connection.close()
            raise
        return reply

    def _chunks(
        self, reply: Reply, to: Address, client: WatchedClient, is_stream: bool, tail: Tail
    ) -> Generator[bytes, None, bool]:
        """The body as it comes. First nothing at all: that lets the server send the headers before the first token."""
        piece = b""
        try:
            yield piece
            client.begin()
            for piece in reply.pieces():
                tail.add(piece)
                yield piece
            return True
        except (OSError, BadFraming) as error:
            reply.is_kept = False  # whatever comes on it now is nobody's answer
            problem = self._cut(error, to, client, is_stream and not isinstance(reply.body, Counted))
            # A half-sent event is ended first, or the error would be a part of it.
            is_whole = not piece or piece.endswith((b"\n\n", b"\r\n\r\n"))
            yield (b"" if is_whole else b"\n\n") + problem.event
            return False

    def _send_to(
        self, direct: Direct, reply: Reply, to: Address, client: WatchedClient, is_stream: bool, tail: Tail
    ) -> bool:
        stream = Stream(reply.connection.socket, direct.socket, reply.body, tail)
        try:
            first = stream.take(reply.rest)
        except BadFraming as error:  # none of it was sent
            reply.is_kept = False
            problem = self._translated(error, to, client)
            if isinstance(problem, ClientDisconnected):
                raise ConnectionResetError(errno.ECONNRESET, str(problem)) from error
            _send(direct.socket, direct.refuse(problem))
            return False
        try:
            _send(direct.socket, direct.head() + first)
            stream.sent_bytes = len(first)
            if not reply.body.is_over:
                client.begin()
                self._mover.move(stream)
        except (OSError, BadFraming) as error:
            reply.is_kept = False
            problem = self._cut(error, to, client, is_stream)
            ending = _chunked_error(reply.body, problem)
            if ending is None:
                raise ConnectionResetError(errno.ECONNRESET, str(problem)) from error
            _send(direct.socket, ending)
            direct.mark_sent(stream.sent_bytes)
            return False
        direct.mark_sent(stream.sent_bytes)
        return True

    def _cut(self, error: Exception, to: Address, client: WatchedClient, has_room: bool) -> ProxyError:
        """What to say of an answer that ended too early. Raises ConnectionResetError where nothing can be said: inside
        a body of its own format the connection ends short of it."""
        problem = self._translated(error, to, client)
        log.log(
            logging.INFO if client.gone or isinstance(error, ClientGone) else logging.WARNING,
            *("answer cut model=%s server=%d: %s", to.model, to.server, problem),
        )
        if client.gone or isinstance(error, ClientGone) or not has_room:
            raise ConnectionResetError(errno.ECONNRESET, str(problem)) from error
        return problem

    def _translated(self, error: Exception, to: Address, client: WatchedClient) -> ProxyError:
        if isinstance(error, ClientGone) and error.errno is None:
            return ClientDisconnected(str(error))
        if client.gone or isinstance(error, ClientGone):
            return ClientDisconnected("the client closed its connection")
        if self._is_closing():
            return Draining("the service is shutting down and the answer was cut")
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(f"{to.model}: llama-server did not answer in time")
        if isinstance(error, OSError) and error.errno in OUT_OF_SOMETHING:
            return SpawnFailed(f"{to.model}: no connection to llama-server can be made: {error.strerror}")
        if isinstance(error, BadAnswer | BadFraming):
            return BadUpstream(f"{to.model}: llama-server answered something that is not HTTP: {error}")
        return UpstreamCrashed(
            f"{to.model}: llama-server ended while it was answering; the next request starts it again"
        )


class _Unsent(ConnectionError):
    """The connection was closed before all of the request was there."""


def _send(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError as error:
        raise ClientGone(error.errno, "the client closed its connection") from error


def _chunked_error(body: FramedBody, problem: ProxyError) -> bytes | None:
    """An error event as the end of a body in chunks. A half-sent chunk is filled with line ends first, which mean
    nothing between events. None where that cannot be done."""
    if not isinstance(body, Chunked) or body.left > MOST_PADDING_BYTES:
        return None
    padding = b"\n" * max(0, body.left - 2) + b"\r\n"[max(0, 2 - body.left) :] if body.left else b""
    return padding + chunk(b"\n\n" + problem.event) + LAST_CHUNK
