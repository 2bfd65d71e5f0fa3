"""RequestPermits: how many requests may run, and wait for a thread."""

from __future__ import annotations

import threading

HEALTH = (b"GET /health ", b"GET /livez ", b"GET /readyz ")
MAX_WAITING_HEALTH_CHECKS = 32


class RequestPermits:
    """One for each thread, and some more for health checks: they get a thread soon, because requests that wait for
    models leave some free, and rejecting a request is quick."""

    def __init__(self, threads: int) -> None:
        self._threads = threading.BoundedSemaphore(threads)
        self._health_checks = threading.BoundedSemaphore(MAX_WAITING_HEALTH_CHECKS)

    def take(self, received: bytes | bytearray) -> threading.Semaphore | None:
        """The permit, to be released once the request is answered; None if it is rejected. `received`: the
        beginning of the request."""
        if self._threads.acquire(blocking=False):
            return self._threads
        if received.startswith(HEALTH) and self._health_checks.acquire(blocking=False):
            return self._health_checks
        return None
