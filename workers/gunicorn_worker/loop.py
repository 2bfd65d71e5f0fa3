"""ConnectionLoop: accepts connections, reads request heads and closes connections; request threads answer.

The rule: a request occupies a thread only once its head is complete and the client has read earlier answers, but for
what fits in the socket's buffer. All before the head and after the answer happens in the main loop, which never blocks.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

from gunicorn.config import Config

from app.errors import Overloaded, ProxyError, RequestTimeout
from workers.gunicorn_worker.accepting import Acceptor
from workers.gunicorn_worker.connection_limit import ConnectionLimit, OpenConnections, max_connections
from workers.gunicorn_worker.error_answers import form_for, send_error
from workers.gunicorn_worker.permits import RequestPermits
from workers.gunicorn_worker.receiving import ClientConnection, Head, Phase
from workers.gunicorn_worker.request_handler import After, RequestHandler
from workers.gunicorn_worker.request_threads import RequestThreads
from workers.gunicorn_worker.timeouts import WorkerTimeouts
from workers.telemetry.refusal_log import RefusalLog

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
STOPPING_LINGER_SECONDS = 0.2  # instead, when stopping; also for a request in transit on an idle connection
LAST_WAIT_SECONDS = 2.0  # when stopping, for clients that do not read
MAX_SWEEP_SECONDS = 1.0  # between two sweeps, and so between two heartbeats
MIN_SWEEP_SECONDS = 0.05
THREAD_WAIT_SECONDS = 1.0  # for a thread; refused, a client is asked to come back after as long
ALL_BUSY = Overloaded("every request thread is busy")
ONCE = select.EPOLLIN | select.EPOLLONESHOT
ONCE_WRITABLE = select.EPOLLOUT | select.EPOLLONESHOT


class ConnectionLoop:
    """The main loop, run by the main thread. Any thread may call `begin_drain`, `stop` and `keeps_connections`."""

    def __init__(self, listeners: Sequence[socket.socket], cfg: Config, timeouts: WorkerTimeouts) -> None:
        self._timeouts = timeouts
        self._keepalive_seconds = cfg.keepalive
        self._permits = RequestPermits(cfg.threads)
        self._request_threads = RequestThreads(cfg.threads)
        self._request_threads.submit(bool)  # start one thread now, in case no thread can be started later
        self._epoll = select.epoll()
        self.refusals = RefusalLog()
        self._acceptor = Acceptor(listeners, self._epoll, timeouts.send_timeout_seconds)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._served = queue.SimpleQueue[tuple[ClientConnection, After]]()  # filled by request threads
        self._handover = threading.Lock()  # between a request thread that gives back a connection, and its close
        self._is_draining = False  # written only by `begin_drain`
        self._is_stopping = False  # written only by `stop`
        # Only the main thread writes the fields below.
        self._connections = OpenConnections(ConnectionLimit.of(max_connections(cfg.worker_connections)))
        self._sweep_at = 0.0

    def begin_drain(self) -> None:
        """Add `Connection: close` to every answer from now on. Async-signal-safe."""
        self._is_draining = True

    def stop(self) -> None:
        """Make `run` return soon."""
        self._is_stopping = True
        os.eventfd_write(self._wakeup, 1)

    def keeps_connections(self) -> bool:
        """Whether a connection may be kept after its present request."""
        return not self._is_draining

    def run(self, handler: RequestHandler, notify: Callable[[], None]) -> None:
        """Serve until `stop`; calls `notify` at least once a second."""
        self._handler = handler
        self._notify = notify
        self._epoll.register(self._wakeup, select.EPOLLIN)
        while not self._is_stopping:
            self._acceptor.watch(has_capacity=self._connections.has_capacity)
            self._run_once()
        self._finish()

    def _finish(self) -> None:
        """Close connections without a running request soon, and wait briefly for the others."""
        self._acceptor.watch(has_capacity=False)
        now = time.monotonic()
        for conn in [each for each in self._connections if each.phase is not Phase.SERVED]:
            conn.deadline = min(conn.deadline, now + STOPPING_LINGER_SECONDS)
        self._sweep_at = now
        while self._connections and time.monotonic() < now + LAST_WAIT_SECONDS:
            self._run_once()

    def _run_once(self) -> None:
        for fd, _ in self._epoll.poll(max(0.0, self._sweep_at - time.monotonic())):
            if (conn := self._connections.get(fd)) is not None:
                self._on_event(conn)
            elif fd == self._wakeup:
                self._take_back()
            else:
                for accepted in self._acceptor.accept(fd):
                    self._open(accepted)
        if time.monotonic() >= self._sweep_at:
            self._sweep()

    def _open(self, conn: ClientConnection) -> None:
        self._evict(self._connections.in_the_way(conn.address, conn.since))
        self._connections.add(conn)
        self._await_head(conn)  # its request has usually arrived already

    def _evict(self, evicted: list[ClientConnection]) -> None:
        problem = Overloaded("too many connections; this one had waited longest")
        for conn in evicted:
            self.refusals.note(problem, conn.address, time.monotonic())
            if conn.phase is Phase.HEAD and conn.received:
                send_error(conn.sock, problem, form_for(conn.received))
            self._close(conn)

    def _on_event(self, conn: ClientConnection) -> None:
        match conn.phase:
            case Phase.HEAD:
                self._read_head(conn)
            case Phase.IDLE:
                self._await_head(conn)
            case Phase.UNREAD:
                self._submit(conn)
            case Phase.LINGERING:
                self._discard(conn)

    def _enter(self, conn: ClientConnection, phase: Phase, timeout_seconds: float) -> None:
        conn.phase = phase
        conn.since = time.monotonic()
        conn.deadline = conn.since + timeout_seconds
        self._sweep_at = min(self._sweep_at, conn.deadline)

    def _watch(self, conn: ClientConnection, events: int = ONCE) -> None:
        """Report the connection's next bytes to the loop, once. Thread-safe: epoll sets can be shared."""
        arm = self._epoll.modify if conn.is_watched else self._epoll.register
        conn.is_watched = True
        arm(conn.sock, events)

    def _await_head(self, conn: ClientConnection) -> None:
        self._enter(conn, Phase.HEAD, self._timeouts.receive_timeout_seconds)
        self._read_head(conn)

    def _read_head(self, conn: ClientConnection) -> None:
        try:
            head = conn.read_head()
        except ProxyError as problem:
            self._refuse(conn, problem)
            return
        match head:
            case Head.COMPLETE:
                self._submit(conn)
            case Head.CLOSED:
                self._close(conn)
            case Head.PARTIAL:
                self._watch(conn)

    def _submit(self, conn: ClientConnection) -> None:
        if not conn.accepts_answer():
            # Requests of clients that read no answers would occupy every thread, those for health checks included.
            self._enter(conn, Phase.UNREAD, self._timeouts.send_timeout_seconds)
            self._watch(conn, ONCE_WRITABLE)
            return
        if (permit := self._permits.take(conn)) is not None:
            self._start(conn, permit)
        elif self._permits.wait(conn):
            self._enter(conn, Phase.QUEUED, THREAD_WAIT_SECONDS)
            self._start_queued()
        else:
            self._refuse(conn, ALL_BUSY)

    def _start_queued(self) -> None:
        while (permitted := self._permits.take_next()) is not None:
            self._start(*permitted)

    def _start(self, conn: ClientConnection, permit: threading.Semaphore) -> None:
        conn.phase, conn.deadline = Phase.SERVED, math.inf
        try:
            self._request_threads.submit(functools.partial(self._serve, conn, permit))
        except RuntimeError as error:  # no new thread can be started: the next free one takes it
            self.refusals.note(Overloaded(f"a request waits for a thread: {error}"), conn.address, time.monotonic())

    def _serve(self, conn: ClientConnection, permit: threading.Semaphore) -> None:
        """Answer the request and hand the connection back. Runs on a request thread."""
        after = After.RESET
        try:
            after = self._handler.handle(conn)
        except Exception:
            log.exception("request failed")
        finally:
            permit.release()  # here, so that the count is exact even if the main loop lags
            self._give_back(conn, after)
            if self._permits.are_awaited:  # looked at after the release: a request joins them before it looks for one
                os.eventfd_write(self._wakeup, 1)

    def _give_back(self, conn: ClientConnection, after: After) -> None:
        if after is After.KEEP and not conn.received and not self._is_stopping:
            with self._handover:
                conn.since = time.monotonic()
                conn.deadline = conn.since + self._keepalive_seconds
                conn.phase = Phase.IDLE  # from here on the main loop may close it
                self._watch(conn)
        else:
            self._served.put((conn, after))
            os.eventfd_write(self._wakeup, 1)

    def _take_back(self) -> None:
        os.eventfd_read(self._wakeup)
        while not self._served.empty():
            conn, after = self._served.get()
            if after is After.RESET:
                conn.reset_on_close()
                self._close(conn)
            elif after is After.CLOSE:
                self._linger(conn)
            elif conn.received:
                self._await_head(conn)
            else:
                self._enter(conn, Phase.IDLE, STOPPING_LINGER_SECONDS)
                self._watch(conn)
        self._start_queued()

    def _refuse(self, conn: ClientConnection, problem: ProxyError) -> None:
        self.refusals.note(problem, conn.address, time.monotonic())
        send_error(conn.sock, problem, form_for(conn.received))
        self._linger(conn)

    def _linger(self, conn: ClientConnection) -> None:
        """Close after the client has: closing with unread bytes resets the connection, which can destroy the answer."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        self._enter(conn, Phase.LINGERING, STOPPING_LINGER_SECONDS if self._is_stopping else LINGER_SECONDS)
        self._watch(conn)

    def _discard(self, conn: ClientConnection) -> None:
        if conn.discard():
            self._watch(conn)
        else:
            self._close(conn)

    def _close(self, conn: ClientConnection) -> None:
        with self._handover:  # the thread that made it idle may not have finished with its socket
            self._connections.close(conn)

    def _sweep(self) -> None:
        """Send the heartbeat, and end connections whose deadline has passed."""
        self._notify()
        now = time.monotonic()
        self.refusals.flush(now)
        for conn in [each for each in self._connections if each.deadline <= now]:
            if conn.phase is Phase.HEAD and conn.received:
                self._refuse(conn, RequestTimeout("the request's headers were not received in time"))
            elif conn.phase is Phase.QUEUED:
                self._permits.give_up(conn)
                self._refuse(conn, ALL_BUSY)
            else:
                self._close(conn)
        first = min((conn.deadline for conn in self._connections), default=math.inf)
        self._sweep_at = now + min(max(first - now, MIN_SWEEP_SECONDS), MAX_SWEEP_SECONDS)
