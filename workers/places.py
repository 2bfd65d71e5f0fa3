"""Places for inference requests: never more than there are threads to hold them, less a reserve for everybody else."""

from __future__ import annotations

import threading


class Places:
    """A counting semaphore that never waits."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def enter(self) -> bool:
        """Take a place. False when all are taken."""
        return self._free.acquire(blocking=False)

    def leave(self) -> None:
        self._free.release()
