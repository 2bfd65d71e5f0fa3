"""Clock: the thread that calls back when something is due by time alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

MAX_SLEEP_SECONDS = 60.0
BUSY_PAUSE_SECONDS = 0.01  # between two calls while the first has had no effect yet


class Clock:
    """`due_at` says when something is due (monotonic seconds; None: never); `tick` is called then, and returns False if
    its effect is still to come, because the lock holder is starting a server, for example."""

    def __init__(self, due_at: Callable[[], float | None], tick: Callable[[], bool]) -> None:
        self._due_at = due_at
        self._tick = tick
        self._wakes_at = -math.inf  # written by the clock's thread alone
        self._is_earlier = threading.Event()  # something is due before that
        self._thread = threading.Thread(target=self._run, name="pool-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def update(self, due: float | None) -> None:
        """Wake the thread if something is `due` earlier than it would wake. Any thread may call this."""
        if due is not None and due < self._wakes_at:
            self._is_earlier.set()

    def _run(self) -> None:
        while True:
            self._is_earlier.clear()
            self._wakes_at = math.inf  # `update` wakes the thread for whatever is due from here on
            due = self._due_at()
            self._wakes_at = math.inf if due is None else due
            if self._is_earlier.wait(min(self._wakes_at - time.monotonic(), MAX_SLEEP_SECONDS)):
                continue
            if not self._tick():
                time.sleep(BUSY_PAUSE_SECONDS)
