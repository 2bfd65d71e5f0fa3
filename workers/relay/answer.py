"""UpstreamAnswer: the answer of a server back to the client, byte for byte.

The body is written to a sink. Where the worker lends the client's socket, small answers are sent on it here and others
by the stream mover's thread; elsewhere the body goes through WSGI. An answer that is cut ends the same way in both.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from app.entities.token_usage import TokenUsage
from app.errors import ProxyError
from app.ports import ClientSocket, UpstreamRequest, WatchedClient
from app.use_cases.token_counts import tokens_in
from workers.relay.body import BadFraming, Counted, SendFailed, Sink, SocketSink, WsgiSink
from workers.relay.connections import UpstreamConnections
from workers.relay.reply import Reply
from workers.relay.stream_mover import StreamMover
from workers.relay.upstream import WITH_BODY

log = logging.getLogger(__name__)


class UpstreamAnswer:
    """A server's answer whose head has arrived. `close` it, whether or not its body was read."""

    def __init__(
        self,
        mover: StreamMover,
        connections: UpstreamConnections,
        explain: Callable[[Exception], ProxyError],
        about: str,
        request: UpstreamRequest,
        client: WatchedClient,
        reply: Reply,
    ) -> None:
        """`explain`: what an exception of the exchange means; `about`: its model and server, in the log."""
        self.status = reply.status
        self.headers = reply.headers
        self.is_stream = reply.is_stream
        self.failure: ProxyError | None = None  # why its body was cut
        self._mover = mover
        self._connections = connections
        self._explain = explain
        self._about = about
        self._client = client
        self._reply = reply
        self._error_form = request.error_form
        # A server that did not read the whole request would take the rest of it for the next one.
        self._is_request_read = reply.status < 300 and (not request.body or request.method in WITH_BODY)

    def copy_body(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> bool:
        """Send the body to the client, by its socket if there is one that agrees about the length, else by `write`.

        Returns whether the body is complete: if not, the client was told so by an error event. Raises
        ConnectionResetError where an event is impossible: the connection must end short of the body.
        """
        sink, reply = self._sink(write, client_socket), self._reply
        try:
            sink.write(reply.first, reply.body.is_over)
            if not reply.body.is_over:
                self._copy_rest(sink)
            is_complete = True
        except (OSError, BadFraming) as error:
            reply.is_kept = False  # whatever arrives on it now belongs to no answer
            sink.end_with(self._error_event(error))
            is_complete = False
        sink.finish()
        return is_complete

    def _sink(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> Sink:
        body = self._reply.body
        length = body.length if isinstance(body, Counted) else None
        if client_socket is not None and client_socket.takes(length):
            return SocketSink(client_socket, is_chunked=length is None)
        return WsgiSink(write)

    def _copy_rest(self, sink: Sink) -> None:
        reply = self._reply
        self._client.begin()
        if isinstance(sink, SocketSink) and reply.connection.is_plain:
            self._mover.move(reply, sink)
        while not reply.body.is_over:
            payload = reply.payload(reply.connection.receive())
            sink.write(payload, reply.body.is_over)

    def _error_event(self, error: Exception) -> bytes:
        """The end of an answer that was cut. Raises ConnectionResetError where there can be none: the client is gone,
        or the body has a format, or an announced length, into which no event fits."""
        problem = self.failure = self._explain(error)
        is_disconnect = self._client.is_disconnected or isinstance(error, SendFailed)
        log.log(
            logging.INFO if is_disconnect else logging.WARNING,
            *("answer cut %s: %s", self._about, problem),
        )
        if is_disconnect or not self.is_stream or isinstance(self._reply.body, Counted):
            raise ConnectionResetError(errno.ECONNRESET, str(problem)) from error
        return b"\n\n" + self._error_form.event(problem)  # an event that was cut is ended first

    def usage(self) -> TokenUsage:
        """The tokens that the body has reported so far."""
        return self._reply.meter.usage()

    def estimated_tokens(self) -> int:
        """How many tokens of text the body has so far: one for each event of a stream."""
        meter = self._reply.meter
        return meter.events if self.is_stream else tokens_in(meter.received_bytes)

    def close(self) -> None:
        """Keep the connection for another request, or close it."""
        self._client.on_disconnect(None)
        reply = self._reply
        if reply.is_kept and self._is_request_read and reply.body.is_over and not self._client.is_disconnected:
            self._connections.give_back(reply.connection)
        else:
            reply.connection.close()
