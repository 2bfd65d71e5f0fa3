"""gunicorn's threaded worker, made fit for one process that owns the GPUs.

The files named gunicorn_* alone lean on gunicorn's insides (checked against 27.0.1). The rule of this one: a request
takes a thread only once its head is complete. What comes before that and after the answer is the main loop's, which
never blocks.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn.errors import AppImportError
from gunicorn.http import errors as http_errors

from app.errors import HeadTooLarge, Overloaded, ProxyError, RequestTimeout
from workers.clients.admission import AdmissionLimit
from workers.gunicorn_worker.error_answers import problem_of, response_bytes
from workers.gunicorn_worker.kept_connections import KeptConnections
from workers.gunicorn_worker.receiving import RECEIVE_BYTES, BodyFailed, BodyReader, Connection, guarded, is_taken, take
from workers.gunicorn_worker.stopping import StoppingWorker

MAX_HEAD_BYTES = 64 * 1024  # beside gunicorn's limits on the request line and on each field
LINGER_SECONDS = 2.0
STOPPING_LINGER_SECONDS = 0.2  # in place of it, and for a request just being sent on an idle connection
LINGER_BYTES = 16 * 1024 * 1024
ACCEPT_PAUSE_SECONDS = 0.5
BUSY_SECONDS = 0.02  # of events that are there at once, without a look at the clock's
HEALTH = (b"GET /health ", b"GET /livez ", b"GET /readyz ")
MOST_QUESTIONS = 32


class CannotStart(AppImportError):
    """Raised by `load_service` when a new attempt would fail too: gunicorn prints the message and stops (exit 4)."""


class ProxyWorker(StoppingWorker):
    """The worker; its `services` come from the application's `load_service`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Both in order of their deadlines, oldest first; the main loop alone touches them.
        self._receiving: dict[Connection, None] = {}
        self._lingering: dict[Connection, None] = {}
        self._threads = AdmissionLimit(self.cfg.threads)  # type: ignore[has-type]
        self._questions = 0  # about our health, that wait for a thread; the main loop's alone
        self._accept_again_at = 0.0
        self._overload_logged_at = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what would make a second owner of the GPUs or pass this worker by. Raises RuntimeError."""
        super().check_config(cfg, log)
        required = {"workers": 1, "max_requests": 0, "preload_app": False, "reuse_port": False, "certfile": None}
        wrong = [f"{name} must be {value!r}" for name, value in required.items() if getattr(cfg, name) != value]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def get_thread_pool(self) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(max_workers=self.cfg.threads, thread_name_prefix="request")
        pool.submit(bool)  # one thread at least is there, whatever can be had later
        return pool

    def init_process(self) -> None:
        self.keepalived_conns = KeptConnections()
        self.cfg = looked_up(self.cfg)  # type: ignore[has-type]
        super().init_process()

    def load_wsgi(self) -> None:
        """Start the services and the Flask application: after the fork, with our signal handlers in place."""
        self.services, application = self.app.load_service()
        self.wsgi = guarded(application)

    # The way of a connection: accept, head, thread, then idle or lingering

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_again_at)

    def accept(self, listener: Any) -> None:
        """Take one connection in; what it has sent is usually there already."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            self._accept_failed(error)
            return
        self.nr_conns += 1
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", math.ceil(self.limits.send_timeout_seconds), 0)
        )
        server = listener.getsockname()
        self._await_request(Connection(self.cfg, sock, client, server, self.limits.receive_timeout_seconds))

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
            return
        # Out of file descriptors, mostly: the base class would let this end the worker, and every stream with it.
        self.log.warning("cannot accept for %.1f s: %s", ACCEPT_PAUSE_SECONDS, error)
        self._accept_again_at = time.monotonic() + ACCEPT_PAUSE_SECONDS
        self.set_accept_enabled(False)

    def _await_request(self, conn: Connection) -> None:
        conn.timeout = time.monotonic() + self.limits.receive_timeout_seconds
        step = self._next_step(conn)
        if step is not None:
            step(conn)
        else:
            self._receiving[conn] = None
            self._watch(conn, self._on_head)

    def _next_step(self, conn: Connection) -> Callable[[Connection], None] | None:
        """What to do with a connection after one look at its socket; None if its head needs more."""
        # What came with the last request may be enough: to read on before each would keep all that a client can send.
        if conn.unreader.head_is_decided():
            return self._submit
        is_open = conn.unreader.receive()
        if conn.unreader.head_is_decided():
            return self._submit
        if not is_open:
            return self._drop
        too_large = len(conn.unreader.head) > MAX_HEAD_BYTES
        return partial(self._refuse, HeadTooLarge(f"headers exceed {MAX_HEAD_BYTES} bytes")) if too_large else None

    def _watch(self, conn: Connection, callback: Callable[[Connection, Any], None]) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, conn))

    def _on_head(self, conn: Connection, sock: Any) -> None:
        step = self._next_step(conn)
        if step is not None:
            self._forget(self._receiving, conn)
            step(conn)

    def _on_kept(self, kept: KeptConnections) -> None:
        for conn in kept.take_readable():
            self._await_request(conn)

    def _submit(self, conn: Connection) -> None:
        has_thread = self._threads.enter()
        if not has_thread and not self._may_wait_for_a_thread(conn):
            self._refuse(Overloaded("every request thread is busy"), conn)
            return
        conn.unreader.begin_request()
        try:
            self.tpool.submit(self._serve, conn, has_thread)
        except RuntimeError as error:
            # No new thread can be had. The request is in the pool's queue all the same: the next free thread takes it.
            self._log_seldom("request waits for a thread: %s", error)

    def _may_wait_for_a_thread(self, conn: Connection) -> bool:
        """Whether this is a question about our health, of which a few may wait: threads that refuse the others are free
        again at once, and those that wait for models leave a reserve."""
        if not bytes(conn.unreader.head[:16]).startswith(HEALTH) or self._questions >= MOST_QUESTIONS:
            return False
        self._questions += 1
        return True

    def _serve(self, conn: Connection, has_thread: bool) -> None:
        keeps = False
        try:
            keeps = self.handle(conn)
        except Exception:
            self.log.exception("request failed")
        finally:
            # On the pool thread, so that the count is exact even while the main loop is behind.
            if has_thread:
                self._threads.leave()
            if keeps and has_thread and self.alive and not conn.unreader.reclaim():
                self._keep(conn)
            else:
                self.method_queue.defer(self._served, conn, keeps, has_thread)

    def _keep(self, conn: Connection) -> None:
        conn.set_timeout()
        self.keepalived_conns.add(conn)

    def _served(self, conn: Connection, keeps: bool, had_thread: bool) -> None:
        if not had_thread:
            self._questions -= 1
        self.finish_request(conn, keeps)

    def finish_request(self, conn: Connection, keeps: bool) -> None:
        """Keep the connection for its next request, or see it off."""
        if conn.is_cut:
            self._reset(conn)
        elif not keeps:
            self._linger(conn)
        elif conn.unreader.reclaim():
            self._await_request(conn)
        else:
            self._keep(conn)
            if not self.alive:
                self._cap_keepalive(conn.timeout)

    def _refuse(self, problem: ProxyError, conn: Connection) -> None:
        self._log_refusal(problem, conn.client)
        self._send(conn.sock, problem)
        self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close after the client has: closing over unread bytes resets the connection and can destroy the answer.

        gunicorn waits for that in the main loop, up to 2 s for every client that is slow to close.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.timeout = time.monotonic() + (LINGER_SECONDS if self.alive else STOPPING_LINGER_SECONDS)
        self._lingering[conn] = None
        self._watch(conn, self._on_linger)

    def _on_linger(self, conn: Connection, sock: Any) -> None:
        data = take(sock)
        conn.lingered_bytes += len(data or b"")
        if data == b"" or conn.lingered_bytes > LINGER_BYTES:
            self._forget(self._lingering, conn)
            self._drop(conn)

    def _reset(self, conn: Connection) -> None:
        """End it so that it looks like no end: that is all HTTP/1.0 has to tell a cut from one."""
        with contextlib.suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._drop(conn)

    def _forget(self, waiting: dict[Connection, None], conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        del waiting[conn]

    def _drop(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    # Deadlines

    def run(self) -> None:
        self.poller.register(self.keepalived_conns, selectors.EVENT_READ, self._on_kept)
        super().run()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As gunicorn's, waking up for the next deadline instead of once a second."""
        firsts = (next(iter(each), None) for each in (self._receiving, self._lingering))
        deadlines = [self.keepalived_conns.first_deadline(), *(conn.timeout for conn in firsts if conn is not None)]
        until = time.monotonic() + BUSY_SECONDS
        super().wait_for_and_dispatch_events(min(timeout, max(0.0, min(deadlines) - time.monotonic())))
        # gunicorn's loop tells the arbiter, looks for its parent and for deadlines each time it goes round.
        while self.alive and time.monotonic() < until and (events := self.poller.select(0)):
            for key, _ in events:
                key.data(key.fileobj)

    def murder_keepalived(self, force: bool = False) -> None:
        for conn in self.keepalived_conns.take_overdue(float("inf") if force else time.monotonic()):
            self._drop(conn)

    def murder_pending(self) -> None:
        """End the connections whose head or whose farewell took too long."""
        for conn in self._overdue(self._receiving):
            self._end_unfinished(conn)
        for conn in self._overdue(self._lingering):
            self._drop(conn)

    def _overdue(self, waiting: dict[Connection, None]) -> Iterable[Connection]:
        now = time.monotonic()
        while waiting and (conn := next(iter(waiting))).timeout <= now:
            self._forget(waiting, conn)
            yield conn

    def _end_unfinished(self, conn: Connection) -> None:
        if conn.unreader.head:
            self._refuse(RequestTimeout("the request's headers were not received in time"), conn)
        else:
            self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """When stopping: end the connections that no thread serves soon, so that they do not hold the exit."""
        deadline = min(deadline, time.monotonic() + STOPPING_LINGER_SECONDS)
        super()._cap_keepalive(deadline)
        for conn in (*self._receiving, *self._lingering):
            conn.timeout = min(conn.timeout, deadline)

    # On the pool thread

    def handle(self, conn: Connection) -> bool:
        """Answer one request; True if the connection may carry another. Neither TLS nor HTTP/2 here."""
        req = None
        try:
            req = next(conn.parser)
            return self._keepalive_after(conn, self.handle_request(req, conn))
        except BodyFailed as failure:
            cause = failure.__cause__
            # A client that reset the connection is not there to be told.
            if failure.answerable and (isinstance(cause, http_errors.NoMoreData) or not isinstance(cause, OSError)):
                self.handle_error(None, conn.sock, conn.client, cause)
        except (http_errors.NoMoreData, StopIteration) as error:
            self.log.debug("client=%s: %s", conn.client, error)
        except OSError as error:
            conn.is_cut = True
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.exception("a client's socket failed")
        except Exception as error:
            self.handle_error(req, conn.sock, conn.client, error)
        return False

    def handle_request(self, req: Any, conn: Connection) -> bool:
        reader = req.body.reader = BodyReader(req.body.reader, conn.sock if req._expected_100_continue else None)
        req._expected_100_continue = False
        try:
            return super().handle_request(req, conn)
        except BlockingIOError as error:  # SO_SNDTIMEO
            self.log.info("client=%s took nothing for %g s", conn.client, self.limits.send_timeout_seconds)
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from error
        finally:
            reader.asks_first = None  # it has its answer

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Never waits, as gunicorn does, for a body that nobody wants: the connection closes, in the main loop."""
        body = conn.parser.mesg.body
        if not keepalive or not is_taken(body, conn.unreader):
            return False
        try:
            while body.read(RECEIVE_BYTES):
                pass
            return True
        except BodyFailed:
            return False

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException | None) -> None:
        """Answer with our error object where gunicorn would send a page of HTML."""
        problem = problem_of(exc)
        if problem.status == 500:
            self.log.error("request failed path=%s", getattr(req, "path", None), exc_info=exc)
        else:
            self._log_refusal(problem, addr)
        self._send(client, problem)

    def _send(self, sock: socket.socket, problem: ProxyError) -> None:
        # A few hundred bytes fit an empty send buffer; a full one belongs to a client that does not read.
        with contextlib.suppress(OSError):
            sock.send(response_bytes(problem), socket.MSG_DONTWAIT)

    def _log_refusal(self, problem: ProxyError, client: Any) -> None:
        write = self._log_seldom if isinstance(problem, Overloaded) else self.log.info
        write("refused status=%d client=%s reason=%r", problem.status, client, str(problem))

    def _log_seldom(self, text: str, *values: object) -> None:
        # At most one line a second: overload is when the main loop has no time to write more.
        if time.monotonic() - self._overload_logged_at >= 1.0:
            self._overload_logged_at = time.monotonic()
            self.log.info(text, *values)


def looked_up(cfg: Any) -> Any:
    """gunicorn's settings as plain attributes: each request asks for forty of them, and each is looked for anew."""
    plain = copy.copy(cfg)
    for name in cfg.settings:
        if not hasattr(type(cfg), name):
            object.__setattr__(plain, name, getattr(cfg, name))
    return plain
