"""ServiceControl: reload, drain and exit, requested by signals."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from workers.gunicorn_worker.arbiter_signals import STOP_SIGNALS, StopSignals
from workers.gunicorn_worker.loop import ConnectionLoop
from workers.gunicorn_worker.timeouts import WorkerTimeouts

log = logging.getLogger(__name__)

KILL_SECONDS = 2.0
RELOAD_SECONDS = 1.0  # between the beginnings of two reloads by signal: each reads the files and every model's header


class DrainableService(Protocol):
    """The service behind the Flask application, as far as the worker controls it."""

    def begin_drain(self) -> None: ...
    def wait_drained(self, timeout: float) -> bool: ...
    def close(self, timeout: float) -> None: ...
    def kill(self) -> None: ...
    def reload(self) -> None: ...


class ServiceControl:
    """Signal handlers only assign and enqueue; the thread "signals" acts on them, and starts threads for long work."""

    def __init__(self, loop: ConnectionLoop, timeouts: WorkerTimeouts) -> None:
        self.service: DrainableService | None = None  # written once by `serve`
        self._has_service = threading.Event()
        self._loop = loop
        self._timeouts = timeouts
        self._stop_signals = StopSignals()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # filled by the signal handlers
        self._reload_lock = threading.Lock()
        # Set by the thread "signals", cleared by a thread "reload" before it reads anything.
        self._is_reload_due = False
        self._reload_at = 0.0  # when the next may begin; under the lock
        self._closed = threading.Event()

    def serve(self, service: DrainableService) -> None:
        """The service has started. Called once, by the main thread."""
        self.service = service
        self._has_service.set()

    def install_signal_handlers(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, self._on_reload_signal)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.siginterrupt(number, False)
        _start_thread("signals", self._run)

    def _on_stop_signal(self, number: int, frame: Any) -> None:
        match self._stop_signals.note(time.monotonic()):
            case "first":
                self._loop.begin_drain()
                self._orders.put(partial(_start_thread, "drain", self._drain))
            case "again":
                self._orders.put(self._exit_now)

    def _on_reload_signal(self, number: int, frame: Any) -> None:
        self._orders.put(self._begin_reload)

    def _run(self) -> None:
        while True:
            order = self._orders.get()
            try:
                order()
            except Exception:  # for example: no new thread; the next signal must still be handled
                log.exception("signal handling failed")

    def _begin_reload(self) -> None:
        """One reload that has not begun yet is enough for all signals that arrive until then."""
        if self._is_reload_due:
            return
        self._is_reload_due = True
        try:
            _start_thread("reload", self._reload)
        except RuntimeError:  # no thread is left; the next signal tries again
            self._is_reload_due = False
            raise

    def _reload(self) -> None:
        self._has_service.wait()  # the start may have read the configuration before the signal
        assert self.service is not None
        try:
            with self._reload_lock:
                time.sleep(max(0.0, self._reload_at - time.monotonic()))
                self._reload_at = time.monotonic() + RELOAD_SECONDS
                self._is_reload_due = False
                self.service.reload()
        except Exception:
            log.exception("reload failed")

    def _drain(self) -> None:
        """Wait for streams to end and stop the servers while still answering requests; only then stop the loop."""
        if self.service is None:
            log.info("stopped during startup")
            os._exit(0)
        log.info("drain begins drain_seconds=%.1f", self._timeouts.drain_seconds)
        try:
            self.service.begin_drain()
            is_drained = self.service.wait_drained(timeout=self._timeouts.drain_seconds)
            log.info("drain ends drained=%s", is_drained)
            self.service.close(timeout=self._timeouts.stop_seconds)
            self._closed.set()
        except Exception:
            log.exception("drain failed")
        self._loop.stop()

    def _exit_now(self) -> None:
        self._kill_service()
        log.warning("second stop signal: exiting now")
        os._exit(1)

    def _kill_service(self) -> None:
        try:
            # Exit even if something below blocks, such as a log that nobody reads.
            deadline = threading.Timer(KILL_SECONDS, os._exit, (1,))
            deadline.daemon = True
            with contextlib.suppress(RuntimeError):  # no new thread: exit without the deadline
                deadline.start()
            if self.service is not None:
                self.service.kill()
        except Exception:
            log.exception("kill failed")

    def exit_process(self) -> None:
        """Exit without waiting for request threads: a thread may be blocked on a dead client's socket for hours."""
        if not self._closed.is_set():
            self._kill_service()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if self._closed.is_set() else 1)


def _start_thread(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()
