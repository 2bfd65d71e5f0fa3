"""BoundedCall: a function in a process of its own, which is left behind if it takes too long.

A thread would not do: a process does not end while one of its threads hangs in a driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class CallFailed(Exception):
    """The function did not return: it took too long, raised an exception, or its process crashed."""


class BoundedCall(Generic[T]):
    """Starts at once. For a process with one thread: it forks."""

    def __init__(self, function: Callable[[], T], seconds: float) -> None:
        """`function` returns something that can be pickled, within `seconds`."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._answer, answer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _run(function, answer)
        os.close(answer)

    def result(self) -> tuple[T, tuple[str, ...]]:
        """What the function returned, and the warnings that it logged. Waits for it. Raises CallFailed."""
        answer = self._read()
        if answer is None:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)  # not waited for: it may hang in the kernel
            raise CallFailed(f"no answer within {self._seconds:g} s")
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            raise CallFailed(f"the check was ended by {signal.Signals(os.WTERMSIG(status)).name}")
        value, warnings, error = pickle.loads(answer)
        if error:
            raise CallFailed(error)
        return value, warnings

    def _read(self) -> bytes | None:
        """The whole answer; None if time runs out first."""
        pieces: list[bytes] = []
        with open(self._answer, "rb", buffering=0) as stream:
            while select.select([stream], [], [], max(0.0, self._deadline - time.monotonic()))[0]:
                if not (piece := stream.read(1 << 16)):
                    return b"".join(pieces)
                pieces.append(piece)
        return None


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _run(function: Callable[[], object], answer: int) -> NoReturn:
    """In the child: run it, write the answer, and end without what the parent registered for its exit."""
    os.setsid()  # whatever it starts can be killed with it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings, value, error = _Warnings(), None, ""
    logging.getLogger().handlers = [warnings]
    with open(os.devnull, "w") as null:  # libraries print there
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    try:
        value = function()
    except Exception as raised:  # the report says so, and goes on
        error = f"{type(raised).__name__}: {raised}"
    with open(answer, "wb") as stream:
        stream.write(pickle.dumps((value, tuple(dict.fromkeys(warnings.lines)), error)))
    os._exit(0)
