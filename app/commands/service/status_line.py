"""One line of stderr that says what a command waits for: only on a terminal, and gone when the wait is over."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from app.commands.console import write
from app.commands.service_client import NoServiceAnswer, ask_service

POLL_SECONDS = 0.25
_CLEAR = "\r\x1b[K"


class StatusLine:
    """While it is open, a thread asks the service. Nothing is shown of a wait that is over before the first poll."""

    def __init__(self, url: str, text_of: Callable[[Mapping[str, Any]], str]) -> None:
        self._url, self._text_of = url, text_of
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_shown = False  # written by the thread alone until it has ended

    def __enter__(self) -> StatusLine:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def close(self) -> None:
        """May be called again."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_shown:
            self._is_shown = False
            write(sys.stderr, _CLEAR)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            text = self._text_of(self._status())
            if text and not self._over.is_set():
                self._is_shown = True
                write(sys.stderr, _CLEAR + text[: shutil.get_terminal_size().columns - 1])

    def _status(self) -> dict[str, Any]:
        try:
            return ask_service(self._url, "GET", "/status", timeout_seconds=5).body
        except NoServiceAnswer:
            return {}
