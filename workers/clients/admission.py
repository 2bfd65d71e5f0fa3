"""Places for inference requests: never more than there are threads to hold them, less a reserve for everybody else."""

from __future__ import annotations

import threading


class AdmissionLimit:
    """A counting semaphore that never waits, nor has anybody to wake."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Take a place. False when all are taken."""
        with self._lock:
            is_free = self._taken < self._count
            self._taken += is_free
        return is_free

    def leave(self) -> None:
        with self._lock:
            self._taken -= 1
