"""Which inference requests may start: a limit on all that run, and a rate limit for each key."""

from __future__ import annotations

import threading
import time
from typing import TypedDict

from app.entities.key import ApiKey
from app.errors import Overloaded

MAX_EVENT_STREAMS = 32


class AdmissionLimit:
    """A counting semaphore that never blocks, so it has nobody to wake."""

    def __init__(self, most: int, what: str = "inference requests") -> None:
        self._most = most
        self._what = what
        self._running = 0
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """One more is running. Raises Overloaded if it would be one too many."""
        with self._lock:
            if self._running == self._most:
                raise Overloaded(f"all places for {self._what} are taken; try again, or raise server.threads")
            self._running += 1

    def release(self) -> None:
        """One has ended."""
        with self._lock:
            self._running -= 1


class Limits(TypedDict):
    """By the names that app.services has for them."""

    admission: AdmissionLimit
    event_streams: AdmissionLimit
    viewers: AdmissionLimit
    download_waits: AdmissionLimit


def admission_limits(places: int) -> Limits:
    """The limits on what holds a thread. `places`: for inference; of these, streams and waits that may take hours get a
    quarter each at most."""
    streams = min(MAX_EVENT_STREAMS, places // 4)
    return Limits(
        admission=AdmissionLimit(places),
        event_streams=AdmissionLimit(streams, "streams of /models/sse"),
        viewers=AdmissionLimit(streams, "streams of the status, of logs and of downloads"),
        download_waits=AdmissionLimit(max(1, places // 4), "requests that wait for a download"),
    )


class KeyRateLimits:
    """A token bucket for each key, one minute's worth of requests deep and full at first. Any thread, by the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By key name: tokens, and when they were counted (monotonic).
        self._buckets: dict[str, tuple[float, float]] = {}

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
