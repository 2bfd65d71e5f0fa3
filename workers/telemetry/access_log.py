"""AccessLog: the line of each inference request, written by one thread for all.

A request's own thread only notes what there is to say. To write it there would hold a lock while the kernel takes the
line, and everybody else who has one to write would wait for that.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from workers.telemetry.log_format import LOG_FORMAT

PAUSE_SECONDS = 0.1  # in which lines gather
NAME_CHARACTERS = 100  # of the name a client asked for
MESSAGE = "request status=%d path=%s model=%s asked=%r seconds=%.3f prompt=%d completion=%d id=%s"
MOST_LINES = 100_000  # that wait while the log takes none; then the oldest go


class AccessLog:
    """The thread, and the lines that wait for it."""

    def __init__(self, file: Callable[[], TextIO] = lambda: sys.stderr) -> None:
        self._file = file
        self._lines: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=MOST_LINES)
        self._has_lines = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def note(
        self,
        status: int,
        path: str,
        model: str,
        asked: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        request_id: str,
    ) -> None:
        """One request is over. `asked` is the client's word for the model."""
        said = (status, path, model, asked[:NAME_CHARACTERS], seconds, prompt_tokens, completion_tokens, request_id)
        self._lines.append((time.time(), said))
        if not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        """Write what waits, here and now."""
        with self._writing:
            texts = []
            while self._lines:
                texts.append(_text(*self._lines.popleft()))
            try:
                self._file().write("".join(texts))
                self._file().flush()
            except (OSError, ValueError):
                pass  # a log that cannot be written fails no request

    def _run(self) -> None:
        while True:
            self._has_lines.wait()
            time.sleep(PAUSE_SECONDS)
            self._has_lines.clear()
            self.flush()


def _text(at: float, said: tuple[object, ...]) -> str:
    """In the form of all other lines."""
    return _form(int(at)) % (int(at % 1 * 1000), MESSAGE % said)


@functools.lru_cache(maxsize=4)
def _form(second: int) -> str:
    """Of all lines of one second: milliseconds and message are left to say."""
    asctime = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(second))},%03d"
    form = {"asctime": asctime, "levelname": "INFO", "threadName": "access-log", "name": __name__, "message": "%s"}
    return LOG_FORMAT % form + "\n"
