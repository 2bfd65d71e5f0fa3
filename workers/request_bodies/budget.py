"""BodyBudget: the bytes of all request bodies in memory, and of each client's."""

from __future__ import annotations

import threading
from collections import Counter

from app.errors import Overloaded


class BodyBudget:
    """Bytes taken, of a total. Any thread, by the lock.

    A client gets half of the total, or one body of the largest size if that is more: one that announces large bodies
    and sends them slowly must not keep out those of all others.
    """

    def __init__(self, total_bytes: int, max_body_bytes: int) -> None:
        self._total_bytes = max(total_bytes, max_body_bytes)
        self._share_bytes = max(self._total_bytes // 2, max_body_bytes)
        self._taken: Counter[str] = Counter()  # by client; under the lock, as the next
        self._taken_bytes = 0
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        return self._taken_bytes

    def take(self, client: str, count: int, may_exceed: bool = False) -> None:
        """Raises Overloaded if they are more than is left, or than is left of the client's share, unless they may
        exceed both."""
        with self._lock:
            if not may_exceed:
                self._check(client, count)
            self._taken_bytes += count
            self._taken[client] += count

    def release(self, client: str, count: int) -> None:
        with self._lock:
            self._taken_bytes -= count
            self._taken[client] -= count
            if not self._taken[client]:
                del self._taken[client]

    def _check(self, client: str, count: int) -> None:
        total = f"{self._total_bytes} bytes (server.max_bodies)"
        if self._taken_bytes + count > self._total_bytes:
            raise Overloaded(f"the bodies of other requests leave too little of {total} for this one; try again")
        if self._taken[client] + count > self._share_bytes:
            share = f"{self._share_bytes} of {total}"
            raise Overloaded(f"this client's other bodies leave too little of its share, {share}; try again")
