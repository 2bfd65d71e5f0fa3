"""Which inference requests may start: a limit on all of them at once, and a rate limit for each key."""

from __future__ import annotations

import threading
import time

from app.entities.key import ApiKey


class AdmissionLimit:
    """A counting semaphore that never blocks, so it has nobody to wake."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Take a place; False if none is free."""
        with self._lock:
            is_free = self._taken < self._count
            self._taken += is_free
        return is_free

    def release(self) -> None:
        """Give a place back."""
        with self._lock:
            self._taken -= 1


class KeyRateLimits:
    """A token bucket for each key, one minute's worth of requests deep and full at first. Any thread, by the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[
            str, tuple[float, float]
        ] = {}  # by key name: tokens, and when they were counted (monotonic)

    def take(self, key: ApiKey) -> float:
        """Take one request from the key's bucket: 0.0, or the seconds until the bucket has one again."""
        capacity, per_second = float(key.requests_per_minute), key.requests_per_minute / 60
        now = time.monotonic()
        with self._lock:
            tokens, counted_at = self._buckets.get(key.name, (capacity, now))
            tokens = min(capacity, tokens + (now - counted_at) * per_second)
            is_allowed = tokens >= 1.0
            self._buckets[key.name] = (tokens - is_allowed, now)
        return 0.0 if is_allowed else (1.0 - tokens) / per_second
