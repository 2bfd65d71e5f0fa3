"""Rates: how many requests a minute a key has left. A token bucket for each key, a minute's worth deep."""

from __future__ import annotations

import threading
import time

from app.entities.key import ApiKey


class Rates:
    """The buckets, by the key's name. Full at first; written by request threads under the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and the monotonic time they were counted at

    def take(self, key: ApiKey) -> float:
        """Take one request from the key's bucket: 0.0, or the seconds until there is one again."""
        full, a_second = float(key.requests_per_minute), key.requests_per_minute / 60
        now = time.monotonic()
        with self._lock:
            tokens, counted_at = self._buckets.get(key.name, (full, now))
            tokens = min(full, tokens + (now - counted_at) * a_second)
            taken = tokens >= 1.0
            self._buckets[key.name] = (tokens - taken, now)
        return 0.0 if taken else (1.0 - tokens) / a_second
