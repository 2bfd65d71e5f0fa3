"""How gunicorn's worker stops: signals, the drain, and an end that nothing holds up.

Leans on gunicorn's insides (checked against 27.0.1), as gunicorn_worker.py does.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gunicorn.workers.gthread import ThreadWorker

from workers.gunicorn_worker.arbiter import STOP_SIGNALS, StopSignals

LAST_WAIT_SECONDS = 2  # for clients that still do not read, once the services are closed
KILL_SECONDS = 2.0


class Services(Protocol):
    """What the worker asks of whatever runs behind the Flask application."""

    def begin_drain(self) -> None: ...
    def wait_drained(self, timeout: float) -> bool: ...
    def close(self, timeout: float) -> None: ...
    def kill(self) -> None: ...
    def reload(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings gunicorn has no names for."""

    receive_timeout_seconds: float = 10.0
    send_timeout_seconds: float = 300.0
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0


class StoppingWorker(ThreadWorker):
    """A worker that drains before it stops. `limits` is set after the fork."""

    limits = Limits()
    services: Services | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop_signals = StopSignals()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reload_lock = threading.Lock()
        self._closed = threading.Event()

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
            order = self._orders.get()
            try:
                order()
            except Exception:  # no thread to be had, say: the next signal must still be heard
                self.log.exception("signal not obeyed")

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
        object.__setattr__(self.cfg, "graceful_timeout", LAST_WAIT_SECONDS)
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


def leave(worker: StoppingWorker) -> None:
    """The worker's last act. A worker that never booted is left to gunicorn, whose exit codes stop the arbiter."""
    if worker.booted and worker.pid == os.getpid():  # the arbiter calls this hook too, for a worker it cannot find
        worker.leave()
