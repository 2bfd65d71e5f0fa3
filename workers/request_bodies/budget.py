"""BodyBudget: the bytes of all request bodies in memory."""

from __future__ import annotations

import threading

from app.errors import Overloaded


class BodyBudget:
    """Bytes taken, of a total. Any thread, by the lock."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._taken_bytes = 0
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        return self._taken_bytes

    def take(self, count: int, may_exceed: bool = False) -> None:
        """Raises Overloaded if they are more than is left, unless they may exceed the total."""
        with self._lock:
            if not may_exceed and self._taken_bytes + count > self._total_bytes:
                total = f"{self._total_bytes} bytes (server.max_bodies)"
                raise Overloaded(f"the bodies of other requests leave too little of {total} for this one; try again")
            self._taken_bytes += count

    def release(self, count: int) -> None:
        with self._lock:
            self._taken_bytes -= count
