"""Runs in the arbiter process: signal handling and the parent-death signal. Called by hooks in gunicorn.conf.py."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from functools import partial
from time import monotonic
from typing import Any

ECHO_SECONDS = 1.0  # Ctrl-C reaches the worker twice, from the terminal and from the arbiter
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopSignals:
    """Distinguishes the first stop signal, its echo, and a later one. Async-signal-safe: only assigns."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def note(self, at: float) -> str:
        """`first`, `echo` (the same request, ignored) or `again` (stop immediately)."""
        if self._first_at is None:
            self._first_at = at
            return "first"
        return "echo" if at - self._first_at <= ECHO_SECONDS else "again"


def die_with_arbiter(worker: Any) -> None:
    """Have the kernel kill this worker when the arbiter dies: a killed arbiter sends no signal."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:  # the arbiter died before the line above
        os._exit(1)


def install_signal_handlers(arbiter: Any) -> None:
    """Install the arbiter's signal handlers; those that could start a second worker are refused."""
    arbiter.handle_hup = partial(_pass_on_reload, arbiter)
    for name in ("usr2", "ttin", "ttou"):
        setattr(arbiter, f"handle_{name}", partial(_refuse_second_owner, arbiter, name.upper()))
    arbiter.handle_int = arbiter.handle_quit = arbiter.handle_term  # until the handlers below are set
    stop_signals = StopSignals()
    for number in STOP_SIGNALS:
        signal.signal(number, partial(_on_arbiter_stop_signal, arbiter, stop_signals))


def _pass_on_reload(arbiter: Any) -> None:
    arbiter.kill_workers(signal.SIGHUP)


def _refuse_second_owner(arbiter: Any, name: str) -> None:
    arbiter.log.warning("refused: SIG%s could start a second worker, but only one may own the GPUs", name)


def _on_arbiter_stop_signal(arbiter: Any, stop_signals: StopSignals, number: int, frame: Any) -> None:
    if os.getpid() != arbiter.pid:
        os._exit(0)  # a new worker that has not set its own handlers yet: nothing is running
    match stop_signals.note(monotonic()):
        case "first":
            arbiter.signal(signal.SIGTERM, frame)
        case "again":
            # The arbiter is already waiting in stop() and would ignore a second SIGTERM.
            for pid in list(arbiter.WORKERS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
