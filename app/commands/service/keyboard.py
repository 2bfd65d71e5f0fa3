"""Single keys from the terminal, without Enter and without an echo."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from types import TracebackType

UP, DOWN = "up", "down"
_NAMES = {"\x1b[A": UP, "\x1bOA": UP, "\x1b[B": DOWN, "\x1bOB": DOWN}
_KEY = re.compile(r"\x1b(?:O.|\[[0-9;]*[A-Za-z~])|.", re.DOTALL)


def keys_of(typed: str) -> list[str]:
    """UP, DOWN and characters. Other keys, which send an escape sequence, are left out."""
    found = (_NAMES.get(key, key) for key in _KEY.findall(typed))
    return [key for key in found if not key.startswith("\x1b")]


class Keyboard:
    """stdin, which is as it was once this is closed."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        self._typed: deque[str] = deque()

    def __enter__(self) -> Keyboard:
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """The terminal as it was before, for another program."""
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        try:
            yield
        finally:
            tty.setcbreak(self._fd)

    def wait(self, seconds: float, wakes: int) -> str:
        """The next of `keys_of`; "" if none came in time, or `wakes` is readable. Raises EOFError at the end."""
        if not self._typed:
            readable, _, _ = select.select([self._fd, wakes], [], [], seconds)
            if wakes in readable:
                os.read(wakes, 4096)
            if self._fd in readable:
                self._typed.extend(self._read())
        return self._typed.popleft() if self._typed else ""

    def _read(self) -> list[str]:
        typed = os.read(self._fd, 64)
        if not typed:
            raise EOFError
        return keys_of(typed.decode(errors="replace"))
