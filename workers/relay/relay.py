"""Relay: one request to its llama-server, up to the head of its answer, and what a failure of it means."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from app.errors import (
    BadUpstream,
    ClientDisconnected,
    Draining,
    EngineGone,
    ModelUnloaded,
    NotSupported,
    ProxyError,
    SpawnFailed,
    UpstreamCrashed,
    UpstreamTimeout,
)
from app.ports import Address, UpstreamRequest, WatchedClient
from app.use_cases.scheduling.pool_state import ServerEnding
from workers.relay.answer import UpstreamAnswer
from workers.relay.body import BadFraming, SendFailed
from workers.relay.connections import UpstreamConnections
from workers.relay.reply import BadAnswer
from workers.relay.stream_mover import StreamMover
from workers.relay.upstream import Unanswered, ask

OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
# What llama-server (b11549) says where the end of the chat template, which the grammar of a schema or of tools begins
# with, is other text once it was tokenized: a SentencePiece vocabulary may put a space before it.
TEMPLATE_MISMATCH = b"Failed to initialize samplers: std::exception"
ABOUT_TEMPLATE_MISMATCH = (
    "llama-server cannot apply the schema or tools of this request, because the model's vocabulary puts a space before "
    "its chat template's text; send a `grammar` instead, add [--override-kv, "
    '"tokenizer.ggml.add_space_prefix=bool:false"] to the model\'s `args`, or choose another model'
)
ALIVE = UpstreamRequest("GET", "/health", {}, b"")
ALIVE_SECONDS = 0.5  # /health waits for no computation


class Relay:
    """Sends requests to llama-servers.

    `is_closing`: the service is stopping them, so a cut is not a crash. `has_ended`: whether the process of a server,
    by its id, has ended or is being stopped; it waits a moment for that. `why_ended`: why the server with this id
    ended or was killed while it answered; None if nothing more is known.
    """

    def __init__(
        self,
        first_byte_seconds: float,
        stall_seconds: float,
        mover: StreamMover,
        is_closing: Callable[[], bool],
        has_ended: Callable[[int], bool],
        why_ended: Callable[[int], ServerEnding | None],
    ) -> None:
        self._first_byte_seconds = first_byte_seconds  # this and the next: replaced by a reload
        self._stall_seconds = stall_seconds
        self.mover = mover
        self._is_closing = is_closing
        self._has_ended = has_ended
        self._why_ended = why_ended
        self.connections = UpstreamConnections()

    def set_timeouts(self, first_byte_seconds: float, stall_seconds: float) -> None:
        """Use these from now on; running streams are held to the new stall_seconds, too."""
        self._first_byte_seconds, self._stall_seconds = first_byte_seconds, stall_seconds
        self.mover.set_timeouts(stall_seconds, stall_seconds)

    def send(self, address: Address, request: UpstreamRequest, client: WatchedClient) -> UpstreamAnswer:
        """Forward a request and wait for the head of its answer.

        Raises UpstreamCrashed (EngineGone if it read no request), BadUpstream or UpstreamTimeout if none arrives,
        NotSupported if it says that the request's schema cannot be applied to this model,
        ClientDisconnected if the client does not wait for it: the connection to the engine is shut within milliseconds
        then, so that it stops generating.
        """
        try:
            reply = ask(self.connections, address, request, client, self._first_byte_seconds)
            reply.connection.patience_seconds = self._stall_seconds
            try:
                reply.prepare()
            except BaseException:
                reply.connection.close()
                raise
        except (OSError, BadAnswer, BadFraming) as error:
            raise self.error_of(error, address, client) from error
        about = f"model={address.model} server={address.server}"
        explain = partial(self.error_of, address=address, client=client)
        answer = UpstreamAnswer(self.mover, self.connections, explain, about, request, client, reply)
        if reply.status == 400 and TEMPLATE_MISMATCH in reply.first:
            answer.close()
            raise NotSupported(f"{address.model}: {ABOUT_TEMPLATE_MISMATCH}")
        return answer

    def forget(self, port: int) -> None:
        """The server on this port has ended."""
        self.connections.forget(port)

    def close(self) -> None:
        """Close the idle connections."""
        self.connections.close()

    def error_of(self, error: Exception, address: Address, client: WatchedClient) -> ProxyError:
        """What an exception of the exchange with a server means. May ask the server whether it is alive."""
        if isinstance(error, SendFailed) and error.errno is None:
            return ClientDisconnected(str(error))
        if client.is_disconnected or isinstance(error, SendFailed):
            return ClientDisconnected("the client closed its connection")
        if self._is_closing():
            return Draining("the service is shutting down and the answer was cut")
        if ending := self._why_ended(address.server):
            if ending.is_hung:
                return UpstreamTimeout(f"{ending.detail}; the next request restarts it")
            if ending.is_unloaded:
                return ModelUnloaded(f"{ending.detail} during the request; send it again to load it")
            return _crash(error, ending.detail)
        model = address.model
        if isinstance(error, TimeoutError):
            settings = "upstream.first_byte_seconds or upstream.stall_seconds"
            return UpstreamTimeout(f"{model}: {error}; increase {settings} if it needs longer")
        if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
            return SpawnFailed(f"{model}: cannot connect to llama-server: {error.strerror}; try again later")
        if isinstance(error, BadAnswer | BadFraming):
            return BadUpstream(f"{model}: llama-server's answer is not valid HTTP: {error}; check engine.binary")
        if not self._is_alive(address, client) and self._has_ended(address.server):
            ending = self._why_ended(address.server)
            return _crash(error, ending.detail if ending else f"{model}: llama-server ended during the request")
        return BadUpstream(f"{model}: llama-server runs on, but the request failed: {error}; check its log")

    def _is_alive(self, address: Address, client: WatchedClient) -> bool:
        """Whether the server answers another request."""
        try:
            reply = ask(self.connections, address, ALIVE, client, ALIVE_SECONDS)
        except (OSError, BadAnswer):
            return False
        reply.connection.close()
        return True


def _crash(error: Exception, why: str) -> UpstreamCrashed:
    is_unread = isinstance(error, ConnectionRefusedError) or (isinstance(error, Unanswered) and error.was_reset)
    return (EngineGone if is_unread else UpstreamCrashed)(f"{why}; the next request restarts it")
