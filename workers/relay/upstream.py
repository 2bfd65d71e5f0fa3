"""One request to a server, up to the head of its answer."""

from __future__ import annotations

from typing import Protocol

from app.ports import BodyFile, UpstreamRequest, WatchedClient
from workers.relay.connections import UpstreamConnection, UpstreamConnections
from workers.relay.reply import NoAnswer, Reply, read_reply

WATCHED_BYTES = 64 * 1024  # a request of more may take a while to send
IDEMPOTENT = ("GET", "HEAD")
WITH_BODY = ("POST", "PUT", "PATCH")  # servers read the bodies of these


class Destination(Protocol):
    """Where a request goes (app.ports.Address, workers.peers.peer_address.PeerAddress)."""

    @property
    def port(self) -> int: ...
    @property
    def host(self) -> str:
        """As in the Host header."""

    @property
    def api_key(self) -> str:
        """ "" for a server that requires none."""


class Unanswered(NoAnswer):
    """The server closed the connection before the first byte of its answer.

    `may_be_running`: it had read the whole request, or that is not certain. `was_reset`: it had not if its process has
    ended since.
    """

    def __init__(self, may_be_running: bool, was_reset: bool) -> None:
        super().__init__("it closed the connection without an answer")
        self.may_be_running = may_be_running
        self.was_reset = was_reset


def ask(
    connections: UpstreamConnections,
    address: Destination,
    request: UpstreamRequest,
    client: WatchedClient,
    first_byte_seconds: float,
) -> Reply:
    """Send a request and wait for the head of its answer.

    A server may close a kept connection at any moment, also while the next request is on its way. Then the request is
    sent once more, on a new connection, if that cannot make the server do it twice: the server did not read all of it,
    so no slot is busy with it, or the method allows a repetition.
    Raises NoAnswer, BadAnswer, OSError (TimeoutError included).
    """
    data = request_bytes(request, address)
    connection = connections.take(address.port)
    if connection.is_reused:
        try:
            return _ask_on(connection, request, data, client, first_byte_seconds)
        except Unanswered as error:
            is_repeatable = request.method in IDEMPOTENT or not error.may_be_running
            if client.is_disconnected or not is_repeatable:
                raise
        connection = connections.new(address.port)
    return _ask_on(connection, request, data, client, first_byte_seconds)


def _ask_on(
    connection: UpstreamConnection,
    request: UpstreamRequest,
    data: bytes,
    client: WatchedClient,
    first_byte_seconds: float,
) -> Reply:
    connection.patience_seconds, connection.on_silence = first_byte_seconds, client.begin
    try:
        client.on_disconnect(connection.shut)
        if len(request.body) > WATCHED_BYTES:
            client.begin()
        return read_reply(connection, request.method, _first_bytes(connection, data, request.body))
    except BaseException:
        connection.close()
        raise


def _first_bytes(connection: UpstreamConnection, data: bytes, body: bytes | BodyFile) -> bytes:
    """Send a request and wait for the first bytes of its answer. Raises Unanswered, OSError (TimeoutError included)."""
    is_sent = True
    try:
        connection.send(data)
        if isinstance(body, BodyFile):
            connection.send_file(body)
    except (BrokenPipeError, ConnectionResetError):
        is_sent = False  # a server that rejects a request before it has read the body may have said so
    try:
        first = connection.receive()
    except ConnectionResetError as error:  # without an end before it, this can be how a server closes what it has read
        raise Unanswered(may_be_running=is_sent, was_reset=True) from error
    if not first:
        was_reset = connection.was_reset()
        raise Unanswered(may_be_running=is_sent and not was_reset, was_reset=was_reset)
    return first


def request_bytes(request: UpstreamRequest, address: Destination) -> bytes:
    """The whole request, but for a body in a file.

    Raises ValueError for a line end in its head: values are checked, whoever made them.
    """
    lines = [
        f"{request.method} {request.target} HTTP/1.1",
        f"Host: {address.host}",
        *(f"{name}: {value}" for name, value in request.headers.items()),
        *([f"Authorization: Bearer {address.api_key}"] if address.api_key else ()),
    ]
    if request.body or request.method in WITH_BODY:
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a line end in the head of a request")
    data = head.encode("latin-1") + b"\r\n\r\n"
    return data if isinstance(request.body, BodyFile) else data + request.body
