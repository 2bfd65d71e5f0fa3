"""The progress of a build on stderr: one line that changes on a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import shutil
import sys
import time

import click

from app.commands.console import write
from app.terminal.builds import build_progress_facts, build_progress_line
from app.terminal.text import printable

LINE_SECONDS = 15.0  # between two lines where stderr is no terminal
_DRAW_SECONDS = 0.2
_CLEAR = "\r\x1b[K"


class BuildProgress:
    """Prints lines, and below them the state of what is being done."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._what, self._began_at, self._began_with = "", 0.0, 0
        self._next_at = 0.0  # monotonic seconds

    def say(self, line: str) -> None:
        self.clear()
        click.echo(printable(line), err=True)

    def show(self, what: str, done: int, total: int) -> None:
        """`done` of `total`: bytes of a download, else steps."""
        now = time.monotonic()
        if what != self._what or done < self._began_with:
            self._what, self._began_at, self._began_with, self._next_at = what, now, done, 0.0
        if now < self._next_at:
            return
        self._next_at = now + (_DRAW_SECONDS if self._is_terminal else LINE_SECONDS)
        per_second = (done - self._began_with) / max(1.0, now - self._began_at)
        if self._is_terminal:
            line = build_progress_line(what, done, total, per_second)
            write(sys.stderr, _CLEAR + line[: shutil.get_terminal_size().columns - 1])
        else:
            click.echo(f"{what}: {', '.join(build_progress_facts(what, done, total, per_second))}", err=True)

    def clear(self) -> None:
        if self._is_terminal and self._what:
            write(sys.stderr, _CLEAR)
