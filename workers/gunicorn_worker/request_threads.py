"""Request threads: they answer requests, are started when all others are busy, and end after a while without work.

The one that became idle last gets the next call. So after a burst the others see no work and end, however many requests
come later: a thread left over counts against the limit on processes, which engines need.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

IDLE_SECONDS = 30.0  # a burst is often followed by another; a thread that waits costs about 100 KiB

Call = Callable[[], object]


class _Idle:
    """A thread that waits for a call. `ready` is released once `call` is set."""

    __slots__ = ("call", "ready")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.ready = threading.Lock()
        self.ready.acquire()


class RequestThreads:
    """At most `most` threads, at least one after the first call. Any thread may submit."""

    def __init__(self, most: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()  # guards the fields below
        self._count = 0
        self._idle: list[_Idle] = []  # the last is the next to get a call
        self._waiting: deque[Call] = deque()  # for a thread, in order

    def submit(self, call: Call) -> None:
        """Have a thread run the call, which must not raise.

        Raises RuntimeError if no thread is idle and no new one can be started: the next free one runs the call then.
        """
        with self._lock:
            if self._idle:
                idle = self._idle.pop()
                idle.call = call
                idle.ready.release()
                return
            self._waiting.append(call)
            if self._count == self._most:
                return
            self._count += 1
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._count -= 1
            raise

    def _run(self) -> None:
        idle = _Idle()
        while call := self._next(idle):
            call()
            del call  # it holds the connection

    def _next(self, idle: _Idle) -> Call | None:
        """The next call for this thread; None: it ends."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(idle)
        while not idle.ready.acquire(timeout=self._idle_seconds):
            with self._lock:
                if idle in self._idle and self._count > 1:
                    self._idle.remove(idle)
                    self._count -= 1
                    return None
        call, idle.call = idle.call, None
        return call
