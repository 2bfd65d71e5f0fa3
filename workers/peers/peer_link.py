"""PeerLink: what is known of one peer, and requests to it.

A request is sent once. What it meets decides whether the peer gets the next one (breaker.py).
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass, replace
from functools import partial

from app.entities.peer import BreakerState, Peer, PeerModel, PeerStatus
from app.errors import Draining, PeerUnavailable, ProxyError, QueueFull
from app.ports import UpstreamRequest, WatchedClient
from app.use_cases.peers.breaker import Breaker
from workers.peers.api_keys import NoKey, read_key
from workers.peers.connecting import connect
from workers.peers.failures import RejectedAnswer, client_error, not_the_peers, problem_of
from workers.peers.peer_client import PeerClient, RunningRequests
from workers.relay.answer import UpstreamAnswer
from workers.relay.body import BadFraming
from workers.relay.connections import UpstreamConnections
from workers.relay.reply import BadAnswer, Reply
from workers.relay.stream_mover import StreamMover
from workers.relay.upstream import ask

log = logging.getLogger(__name__)

MAX_REQUESTS = 128  # at a time: one that hangs must not take all threads
FAILURES = (OSError, BadAnswer, BadFraming, NoKey, RejectedAnswer)
NEW = Breaker()


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a request goes, and the key that it is sent with."""

    host: str
    port: int
    api_key: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer may take to begin, and how long it may pause."""

    first_byte_seconds: float
    stall_seconds: float


class PeerLink:
    """Thread-safe. `list_problem`: written by the thread that reads the list."""

    def __init__(self, peer: Peer, mover: StreamMover) -> None:
        self.peer = peer
        self.models = None if peer.models is None else tuple(PeerModel(peer.name, each) for each in peer.models)
        self.list_problem = ""
        self.running = RunningRequests()
        self._mover = mover
        tls = ssl.create_default_context() if peer.is_tls else None
        self.connections = UpstreamConnections(lambda port: connect(peer, tls))
        self._is_closing = False
        self._lock = threading.Lock()
        self._breaker = NEW  # this and the next two: under the lock
        self._problem = ""
        self._failures = 0

    def status(self, now: float) -> PeerStatus:
        with self._lock:
            breaker, problem, failures = self._breaker, self._problem, self._failures
        state = breaker.state(now)
        return PeerStatus(
            name=self.peer.name,
            models=self.models or (),
            is_listed=self.models is not None,
            breaker=state,
            problem=problem or self.list_problem,
            retry_seconds=breaker.open_until - now if state is BreakerState.OPEN else 0.0,
            requests=len(self.running),
            failures=failures,
        )

    def send(self, request: UpstreamRequest, client: WatchedClient, patience: Patience, model: str) -> UpstreamAnswer:
        """Send a request, its target below the peer's base URL, and wait for the head of its answer. Raises
        ProxyError."""
        request = replace(request, target=f"{self.peer.path}{request.target}")
        began_at = self._admit()
        watched = PeerClient(self.running, client)
        explain = partial(self._explain, client=watched, began_at=began_at)
        try:
            reply = self.reply_to(request, watched, patience)
        except FAILURES as error:
            watched.close()
            raise explain(error) from error
        except BaseException:
            watched.close()
            raise
        self.note_answer()
        return UpstreamAnswer(self._mover, self.connections, explain, f"model={model}", request, watched, reply)

    def reply_to(self, request: UpstreamRequest, client: PeerClient, patience: Patience) -> Reply:
        """The answer to one request, its head checked. Raises one of FAILURES."""
        address = PeerAddress(self.peer.host, self.peer.port, read_key(self.peer))
        reply = ask(self.connections, address, request, client, patience.first_byte_seconds)
        reply.connection.patience_seconds = patience.stall_seconds
        try:
            _check(reply)
            reply.prepare()
        except BaseException:
            reply.connection.close()
            raise
        return reply

    def note_answer(self) -> None:
        """It answers."""
        with self._lock:
            before, self._breaker, self._problem = self._breaker, NEW, ""
        if before.state(time.monotonic()) is not BreakerState.CLOSED:
            log.info("peer answers name=%s", self.peer.name)

    def note_failure(self, problem: str, began_at: float) -> None:
        """A request that began then (monotonic seconds) has failed."""
        now = time.monotonic()
        with self._lock:
            before, self._breaker = self._breaker, self._breaker.failed(began_at, now)
            self._problem, self._failures = problem, self._failures + 1
            opened = before.state(now) is BreakerState.CLOSED and self._breaker.state(now) is BreakerState.OPEN
        if opened:
            log.warning("peer does not answer name=%s problem=%r", self.peer.name, problem)

    def _note_problem(self, problem: str) -> None:
        """A request has failed, and not because the peer does not answer."""
        with self._lock:
            self._problem, self._failures = problem, self._failures + 1

    def close(self) -> None:
        """End its connections: those at work are cut."""
        self._is_closing = True
        self.running.cut_all()
        self.connections.close()

    def _admit(self) -> float:
        """When the request begins, monotonic seconds. Raises PeerUnavailable, QueueFull, Draining."""
        now, name = time.monotonic(), self.peer.name
        if self._is_closing:
            raise Draining("the service is shutting down")
        if len(self.running) >= MAX_REQUESTS:
            raise QueueFull(f"peer {name}: {MAX_REQUESTS} requests are not answered yet; try again later")
        with self._lock:
            if (admitted := self._breaker.admit(now)) is None:
                seconds, problem = self._breaker.open_until - now, self._problem
                text = f"peer {name} does not answer ({problem}); it is tried again in {seconds:.0f} s"
                raise PeerUnavailable(text, seconds)
            self._breaker = admitted
        return now

    def _explain(self, error: Exception, client: PeerClient, began_at: float) -> ProxyError:
        """What an exception of the exchange means, also once the answer has begun."""
        if problem := not_the_peers(error, client):
            return problem
        if self._is_closing:
            return Draining("the service is shutting down and the answer was cut")
        if isinstance(error, NoKey | RejectedAnswer):
            self._note_problem(problem_of(error))
        else:
            self.note_failure(problem_of(error), began_at)
        return client_error(error, self.peer.name, self.status(time.monotonic()).retry_seconds)


def _check(reply: Reply) -> None:
    """Raises RejectedAnswer."""
    if reply.status in (401, 407):  # the client would look for the mistake in its own key
        raise RejectedAnswer(f"it does not accept its key (status {reply.status})")
    if 300 <= reply.status < 400:  # with the key and the prompt, to wherever it says
        raise RejectedAnswer(f"it redirects to another address (status {reply.status}), which is not followed")
