"""gunicorn's threaded worker, made fit for one process that owns the GPUs.

The one place that leans on gunicorn's insides (checked against 27.0.1). Its rule: a request takes a thread only
once its head is complete. What comes before that and after the answer is the main loop's, which never blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import http
import json
import logging
import os
import queue
import re
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gunicorn.errors import AppImportError
from gunicorn.http import errors as http_errors
from gunicorn.http.body import LengthReader
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

RECEIVE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024  # beside gunicorn's limits on the request line and on each field
MIN_BODY_BYTES_PER_SECOND = 64 * 1024
ECHO_SECONDS = 1.0  # Ctrl-C reaches the worker twice: from the terminal and from the arbiter
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 * 1024 * 1024
STOPPING_LINGER_SECONDS = 0.2  # in place of the above, and for a request just being sent on an idle connection
LAST_WAIT_SECONDS = 2  # for clients that still do not read, once the services are closed
ACCEPT_PAUSE_SECONDS = 0.5
KILL_SECONDS = 2.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_BARE_LF = re.compile(rb"(?<!\r)\n")


class Services(Protocol):
    """What the worker asks of whatever runs behind the Flask application."""

    def begin_drain(self) -> None: ...
    def wait_drained(self, timeout: float) -> bool: ...
    def close(self, timeout: float) -> None: ...
    def kill(self) -> None: ...
    def reload(self) -> None: ...


class CannotStart(AppImportError):
    """Raised by `load_service` when a new attempt would fail too: gunicorn prints the message and stops (exit 4)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings gunicorn has no names for."""

    receive_timeout_seconds: float = 10.0
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0


# Refusals: what is answered before, or instead of, the Flask application


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer of ours that goes out without the Flask application."""

    status: int
    message: str
    code: str = "invalid_request"
    type: str = "invalid_request_error"
    retry_after_seconds: int | None = None

    def to_bytes(self) -> bytes:
        """The whole HTTP response; the connection closes after it."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        body = json.dumps({"error": error}).encode()
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "x-llama-smart-proxy-error: 1",
            *self._retry_lines(),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def _retry_lines(self) -> list[str]:
        if self.retry_after_seconds is not None:
            return [f"Retry-After: {self.retry_after_seconds}"]
        # Client libraries repeat these on their own; the same request would meet the same end.
        return ["x-should-retry: false"] if self.status == 408 or self.status >= 500 else []


OVERLOADED = Refusal(503, "every request thread is busy", "overloaded", "server_error", retry_after_seconds=1)
HEAD_TOO_LARGE = Refusal(431, f"the request's headers exceed {MAX_HEAD_BYTES} bytes")
INTERNAL_ERROR = Refusal(500, "internal error", "internal_error", "server_error")

_APPLICATION_FAULTS = (
    http_errors.InvalidResponseHeader,
    http_errors.InvalidResponseHeaderName,
    http_errors.ConfigurationProblem,
)
_OTHER_THAN_400: dict[type[Exception], int] = {
    http_errors.LimitRequestLine: 414,
    http_errors.ExpectationFailed: 417,
    http_errors.LimitRequestHeaders: 431,
}


def refusal_for(error: BaseException | None) -> Refusal:
    """The answer to a request that could not be read (4xx) or that the application failed on (500)."""
    if isinstance(error, RequestTimeout):
        return Refusal(408, str(error), "request_timeout")
    if isinstance(error, http_errors.NoMoreData):
        return Refusal(400, "the request body ended before its announced length")
    if isinstance(error, http_errors.ParseException) and not isinstance(error, _APPLICATION_FAULTS):
        # An unsupported transfer coding too: whatever makes the framing ambiguous is a 400 here.
        return Refusal(_OTHER_THAN_400.get(type(error), 400), str(error)[:200])
    return INTERNAL_ERROR


# Receiving: the bytes of a connection


class RequestTimeout(Exception):
    """The client sent nothing for too long, or too little on average."""


class BodyFailed(BaseException):
    """The body cannot be read to its end; the cause says why.

    Not an Exception: the application reads the body, and Flask would turn an Exception into a 500 and an OSError
    into a 400. This passes through every `except Exception`, and `handle` answers with what really happened.
    """

    answerable = False  # True while no byte of a response can have been sent


class PacedUnreader(SocketUnreader):
    """Collects a head without blocking (main loop), then reads the body at a bounded pace (pool thread)."""

    def __init__(self, sock: socket.socket, receive_timeout_seconds: float) -> None:
        super().__init__(sock, max_chunk=RECEIVE_BYTES)
        self._patience = receive_timeout_seconds
        self.head = bytearray()  # written by the main loop alone
        self._searched = 0
        self._received = 0
        self._waited = 0.0

    def receive(self) -> bool:
        """Add what has arrived to the head; False once the client has closed its side."""
        data = _take(self.sock)
        self.head += data or b""
        return data != b""

    def head_is_decided(self) -> bool:
        """Whether the parser can now accept or refuse the head without reading more."""
        start = max(0, self._searched - 3)
        self._searched = len(self.head)
        # The parser refuses a bare LF on sight; without this a typist with netcat would wait for the time-out.
        return self.head.find(b"\r\n\r\n", start) >= 0 or _BARE_LF.search(self.head, start) is not None

    def begin_request(self) -> None:
        """Hand the collected bytes to the parser and start the body's clock."""
        self._searched, self._received, self._waited = 0, len(self.head), 0.0
        self.unread(bytes(self.head))
        self.head.clear()

    def reclaim(self) -> bool:
        """Take back what the client sent beyond its last request; False if there is nothing."""
        self.head += self.take_buffered()
        return bool(self.head)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes from the client, waited for at most as long as its pace allows. Raises RequestTimeout."""
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        try:
            data = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait()
            data = self.sock.recv(size)
        self._received += len(data)
        return data

    def _wait(self) -> None:
        # Only time spent waiting for the client counts, so an application that reads late blames nobody.
        earned = max(self._patience, self._received / MIN_BODY_BYTES_PER_SECOND)
        allowed_seconds = min(self._patience, earned - self._waited)
        began = time.monotonic()
        if allowed_seconds <= 0 or not _readable(self.sock, allowed_seconds):
            raise RequestTimeout("the request body was not received in time")
        self._waited += time.monotonic() - began


def _take(sock: socket.socket) -> bytes | None:
    """What has arrived: None if nothing yet, b"" once the client has closed or reset the connection."""
    try:
        return sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _readable(sock: socket.socket, timeout_seconds: float) -> bool:
    # poll, not settimeout: the socket stays in blocking mode, which the response needs.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


class BodyReader:
    """gunicorn's reader of one body, with every failure made a BodyFailed and a short body a failure."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.failure: BodyFailed | None = None

    def read(self, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        try:
            return self._read(size)
        except Exception as error:
            self.failure = BodyFailed()
            raise self.failure from error

    def _read(self, size: int) -> bytes:
        due = min(self._reader.length, size) if isinstance(self._reader, LengthReader) else 0
        data = self._reader.read(size)
        # gunicorn hands a cut-off body to the application as if it were whole.
        if len(data) < due:
            raise http_errors.NoMoreData(data)
        return data


class Connection(TConn):
    """A client's connection; its socket stays blocking, the main loop asks with MSG_DONTWAIT.

    `timeout` is the monotonic time at which the phase it is in ends: head, idle or lingering.
    """

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, receive_timeout_seconds: float) -> None:
        super().__init__(cfg, sock, client, server)
        sock.setblocking(True)
        self.unreader = PacedUnreader(sock, receive_timeout_seconds)
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = self.unreader
        self.initialized = self.data_ready = True
        self.lingered_bytes = 0


def with_body_failures(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application, except that a failed body ends its call whatever it made of the failure."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reader = environ["wsgi.input"].reader
        try:
            chunks = application(environ, start_response)
        except BodyFailed as failure:
            failure.answerable = True
            raise
        if reader.failure is None:
            return chunks
        getattr(chunks, "close", bool)()
        reader.failure.answerable = True
        raise reader.failure

    return guarded


# Stopping


class StopSignals:
    """Tells the first stop signal from its echo and from a later one; safe in a signal handler (it only assigns)."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def note(self, at: float) -> str:
        """`first`, `echo` (it counts as the first) or `again` (it means now)."""
        if self._first_at is None:
            self._first_at = at
            return "first"
        return "echo" if at - self._first_at <= ECHO_SECONDS else "again"


class ProxyWorker(ThreadWorker):
    """The worker; `limits` is set after the fork, `services` come from the application's `load_service`."""

    limits = Limits()
    services: Services | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Both in order of their deadlines, oldest first; the main loop alone touches them.
        self._receiving: dict[Connection, None] = {}
        self._lingering: dict[Connection, None] = {}
        self._free_threads = threading.Semaphore(self.cfg.threads)
        self._accept_again_at = 0.0
        self._overload_logged_at = 0.0
        self._stop_signals = StopSignals()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reload_lock = threading.Lock()
        self._closed = threading.Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what would make a second owner of the GPUs or pass this worker by. Raises RuntimeError."""
        super().check_config(cfg, log)
        required = {"workers": 1, "max_requests": 0, "preload_app": False, "reuse_port": False, "certfile": None}
        wrong = [f"{name} must be {value!r}" for name, value in required.items() if getattr(cfg, name) != value]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=self.cfg.threads, thread_name_prefix="request")

    def load_wsgi(self) -> None:
        """Start the services and the Flask application: after the fork, with our signal handlers in place."""
        self.services, application = self.app.load_service()
        self.wsgi = with_body_failures(application)

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
        is_open = conn.unreader.receive()
        if conn.unreader.head_is_decided():
            return self._submit
        if not is_open:
            return self._drop
        return partial(self._refuse, HEAD_TOO_LARGE) if len(conn.unreader.head) > MAX_HEAD_BYTES else None

    def _watch(self, conn: Connection, callback: Callable[[Connection, Any], None]) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, conn))

    def _on_head(self, conn: Connection, sock: Any) -> None:
        step = self._next_step(conn)
        if step is not None:
            self._forget(self._receiving, conn)
            step(conn)

    def _on_idle(self, conn: Connection, sock: Any) -> None:
        self.poller.unregister(sock)
        self.keepalived_conns.remove(conn)
        self._await_request(conn)

    def _submit(self, conn: Connection) -> None:
        if not self._free_threads.acquire(blocking=False):
            self._refuse(OVERLOADED, conn)
            return
        conn.unreader.begin_request()
        self.tpool.submit(self.handle, conn).add_done_callback(partial(self._handled, conn))

    def _handled(self, conn: Connection, answered: Future[Any]) -> None:
        # On the pool thread, so that the count is exact even while the main loop is behind.
        self._free_threads.release()
        self.method_queue.defer(self.finish_request, conn, answered)

    def finish_request(self, conn: Connection, answered: Future[Any]) -> None:
        """Keep the connection for its next request, or see it off."""
        if answered.cancelled() or answered.exception() is not None or not answered.result():
            self._linger(conn)
        elif conn.unreader.reclaim():
            self._await_request(conn)
        else:
            conn.set_timeout()
            self.keepalived_conns.append(conn)
            self._watch(conn, self._on_idle)
            if not self.alive:
                self._cap_keepalive(conn.timeout)

    def _refuse(self, refusal: Refusal, conn: Connection) -> None:
        self._log_refusal(refusal, conn.client)
        self._send(conn.sock, refusal)
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
        data = _take(sock)
        conn.lingered_bytes += len(data or b"")
        if data == b"" or conn.lingered_bytes > LINGER_BYTES:
            self._forget(self._lingering, conn)
            self._drop(conn)

    def _forget(self, waiting: dict[Connection, None], conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        del waiting[conn]

    def _drop(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    # Deadlines

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As gunicorn's, waking up for the next deadline instead of once a second."""
        firsts = [next(iter(each), None) for each in (self._receiving, self._lingering, self.keepalived_conns)]
        next_at = min((conn.timeout for conn in firsts if conn is not None), default=float("inf"))
        super().wait_for_and_dispatch_events(min(timeout, max(0.0, next_at - time.monotonic())))

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
            self._refuse(refusal_for(RequestTimeout("the request's headers were not received in time")), conn)
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
        """Answer one request; True if the connection may carry another."""
        try:
            return super().handle(conn)
        except BodyFailed as failure:
            cause = failure.__cause__
            # A client that reset the connection is not there to be told.
            if failure.answerable and (isinstance(cause, http_errors.NoMoreData) or not isinstance(cause, OSError)):
                self.handle_error(None, conn.sock, conn.client, cause)
            return False

    def handle_request(self, req: Any, conn: Connection) -> bool:
        req.body.reader = BodyReader(req.body.reader)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        try:
            return super()._keepalive_after(conn, keepalive)
        except BodyFailed:  # while discarding a body that the application left unread
            return False

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException | None) -> None:
        """Answer with our error object where gunicorn would send a page of HTML."""
        refusal = refusal_for(exc)
        if refusal is INTERNAL_ERROR:
            self.log.error("request failed path=%s", getattr(req, "path", None), exc_info=exc)
        else:
            self._log_refusal(refusal, addr)
        self._send(client, refusal)

    def _send(self, sock: socket.socket, refusal: Refusal) -> None:
        # A few hundred bytes fit an empty send buffer; a full one belongs to a client that does not read.
        with contextlib.suppress(OSError):
            sock.send(refusal.to_bytes(), socket.MSG_DONTWAIT)

    def _log_refusal(self, refusal: Refusal, client: Any) -> None:
        if refusal is OVERLOADED:
            # At most one line a second: overload is when the main loop has no time to write more.
            if time.monotonic() - self._overload_logged_at < 1.0:
                return
            self._overload_logged_at = time.monotonic()
        self.log.info("refused status=%d client=%s reason=%r", refusal.status, client, refusal.message)

    # Signals: the handlers only assign and put; the thread "signals" acts

    def init_signals(self) -> None:
        super().init_signals()
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, self._on_reload_signal)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.siginterrupt(number, False)
        self._start_thread("signals", self._obey)

    def _on_stop_signal(self, number: int, frame: Any) -> None:
        match self._stop_signals.note(time.monotonic()):
            case "first":
                self.max_keepalived = 0  # every answer from now on says Connection: close
                self._orders.put(partial(self._start_thread, "drain", self._drain))
            case "again":
                self._orders.put(self._leave_now)

    def _on_reload_signal(self, number: int, frame: Any) -> None:
        self._orders.put(partial(self._start_thread, "reload", self._reload))

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def _obey(self) -> None:
        while True:
            self._orders.get()()

    def _reload(self) -> None:
        if self.services is None:
            return
        try:
            with self._reload_lock:
                self.services.reload()
        except Exception:
            self.log.exception("reload failed")

    def _drain(self) -> None:
        """Let the streams end and stop the children while requests are still answered; only then stop accepting."""
        if self.services is None:
            self.log.info("stopped while starting")
            os._exit(0)
        self.log.info("drain begins drain_seconds=%.1f", self.limits.drain_seconds)
        try:
            self.services.begin_drain()
            is_drained = self.services.wait_drained(timeout=self.limits.drain_seconds)
            self.log.info("drain ends drained=%s", is_drained)
            self.services.close(timeout=self.limits.stop_seconds)
            self._closed.set()
        except Exception:
            self.log.exception("drain failed")
        # What is still open belongs to clients that do not read: not worth the arbiter's whole patience.
        self.cfg.set("graceful_timeout", LAST_WAIT_SECONDS)
        self.handle_exit(signal.SIGTERM, None)

    def _leave_now(self) -> None:
        self._kill_services()
        self.log.warning("second stop signal: leaving now")
        os._exit(1)

    def _kill_services(self) -> None:
        # Whatever blocks below, even a log nobody reads, does not keep the process.
        deadline = threading.Timer(KILL_SECONDS, os._exit, (1,))
        deadline.daemon = True
        deadline.start()
        try:
            if self.services is not None:
                self.services.kill()
        except Exception:
            self.log.exception("kill failed")

    def leave(self) -> None:
        """End the process without joining the pool: a thread may be stuck in a dead client's socket for hours."""
        if not self._closed.is_set():
            self._kill_services()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if self._closed.is_set() else 1)


# What gunicorn.conf.py's hooks call


def die_with_arbiter(worker: ProxyWorker) -> None:
    """Have the kernel kill this worker when the arbiter dies: a killed arbiter cannot tell it to stop."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:  # it died before the line above
        os._exit(1)


def leave(worker: ProxyWorker) -> None:
    """The worker's last act. A worker that never booted is left to gunicorn, whose exit codes stop the arbiter."""
    if worker.booted and worker.pid == os.getpid():  # the arbiter calls this hook too, for a worker it cannot find
        worker.leave()


def own_signals(arbiter: Any) -> None:
    """Give the arbiter the signals of a service that must never have two workers."""
    arbiter.handle_hup = partial(_pass_on_reload, arbiter)
    for name in ("usr2", "ttin", "ttou"):
        setattr(arbiter, f"handle_{name}", partial(_refuse_second_owner, arbiter, name.upper()))
    arbiter.handle_int = arbiter.handle_quit = arbiter.handle_term  # for one that came before the handlers below
    stop_signals = StopSignals()
    for number in STOP_SIGNALS:
        signal.signal(number, partial(_on_arbiter_stop_signal, arbiter, stop_signals))


def _pass_on_reload(arbiter: Any) -> None:
    arbiter.kill_workers(signal.SIGHUP)


def _refuse_second_owner(arbiter: Any, name: str) -> None:
    arbiter.log.warning("refused: SIG%s would start or count another worker, a second owner of the GPUs", name)


def _on_arbiter_stop_signal(arbiter: Any, stop_signals: StopSignals, number: int, frame: Any) -> None:
    if os.getpid() != arbiter.pid:
        os._exit(0)  # a worker just forked, before it has handlers of its own: nothing is started yet
    match stop_signals.note(time.monotonic()):
        case "first":
            arbiter.SIG_QUEUE.put_nowait(signal.SIGTERM)
        case "again":
            # The arbiter is waiting in its stop() by now and would drop a second SIGTERM.
            for pid in list(arbiter.WORKERS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
