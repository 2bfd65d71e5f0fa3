"""RequestPermits: how many requests may run, and which wait for a thread."""

from __future__ import annotations

import threading
from collections import deque

from workers.gunicorn_worker.receiving import ClientConnection

HEALTH = (b"GET /health ", b"GET /livez ", b"GET /readyz ")
MAX_WAITING_HEALTH_CHECKS = 32


class RequestPermits:
    """One for each thread, and some more for health checks: they get a thread soon, because requests that wait for
    models leave some free, and rejecting a request is quick.

    As many others as there are threads may wait: a client has its whole answer before the thread that sent it is free,
    and its next request must not be refused for that. Main thread only, but for `are_awaited`.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threading.BoundedSemaphore(threads)
        self._health_checks = threading.BoundedSemaphore(MAX_WAITING_HEALTH_CHECKS)
        self._waiting: deque[ClientConnection] = deque()
        self._max_waiting = threads

    def take(self, conn: ClientConnection) -> threading.Semaphore | None:
        """The permit of its request, to be released once that is answered; None if it must wait."""
        if not self._waiting and self._threads.acquire(blocking=False):
            return self._threads
        if conn.received.startswith(HEALTH) and self._health_checks.acquire(blocking=False):
            return self._health_checks
        return None

    def wait(self, conn: ClientConnection) -> bool:
        """Whether it may wait. It gets its permit from `take_next`, which must be called now: one may be free again."""
        if len(self._waiting) == self._max_waiting:
            return False
        self._waiting.append(conn)
        return True

    @property
    def are_awaited(self) -> bool:
        return bool(self._waiting)

    def take_next(self) -> tuple[ClientConnection, threading.Semaphore] | None:
        """The request that has waited longest, with its permit; None if none waits or no permit is free."""
        if self._waiting and self._threads.acquire(blocking=False):
            return self._waiting.popleft(), self._threads
        return None

    def give_up(self, conn: ClientConnection) -> None:
        """The request waits no longer."""
        self._waiting.remove(conn)
