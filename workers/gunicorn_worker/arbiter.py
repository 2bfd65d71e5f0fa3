"""The arbiter's side: its signals, and that nothing outlives it. Called from the server hooks in gunicorn.conf.py."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from functools import partial
from time import monotonic
from typing import Any

ECHO_SECONDS = 1.0  # Ctrl-C reaches the worker twice: from the terminal and from the arbiter
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopSignals:
    """Distinguishes the first stop signal from its echo and from a later one; safe in a signal handler (it only
    assigns)."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def note(self, at: float) -> str:
        """`first`, `echo` (it counts as the first) or `again` (it means now)."""
        if self._first_at is None:
            self._first_at = at
            return "first"
        return "echo" if at - self._first_at <= ECHO_SECONDS else "again"


def die_with_arbiter(worker: Any) -> None:
    """Have the kernel kill this worker when the arbiter dies: a killed arbiter sends no signal."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:  # it died before the line above
        os._exit(1)


def install_signal_handlers(arbiter: Any) -> None:
    """Give the arbiter the signal handlers of a service that must never have two workers."""
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
    match stop_signals.note(monotonic()):
        case "first":
            arbiter.signal(signal.SIGTERM, frame)
        case "again":
            # The arbiter is waiting in its stop() by now and would drop a second SIGTERM.
            for pid in list(arbiter.WORKERS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
