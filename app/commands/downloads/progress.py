"""The progress of a download on stderr: one line that changes on a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import click

from app.commands.console import write
from app.terminal.downloads import is_running, progress_facts, progress_line
from app.terminal.text import printable

LINE_SECONDS = 10.0  # between two lines of the same state, where stderr is no terminal
_CLEAR = "\r\x1b[K"


class ProgressDisplay:
    """Shows each state of a download that it is given; what it has drawn is gone at the end."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said = "", ""  # the state and the problem that were shown last
        self._shown_at = 0.0

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_terminal and any(self._said):
            write(sys.stderr, _CLEAR)

    def show(self, download: Mapping[str, Any]) -> None:
        """`download`: as in GET /status. Its end is for the caller to tell."""
        if not is_running(download):
            return
        said = download["state"], download["problem"]
        if self._is_terminal:
            write(sys.stderr, _CLEAR + progress_line(download, shutil.get_terminal_size().columns))
        elif said != self._said or time.monotonic() - self._shown_at >= LINE_SECONDS:
            click.echo(f"{printable(download['model'])}: {', '.join(progress_facts(download)).lstrip()}", err=True)
            self._shown_at = time.monotonic()
        self._said = said
