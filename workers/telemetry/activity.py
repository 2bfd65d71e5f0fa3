"""Activity: the last requests, and what was counted in each minute of the last hour, for GET /status."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence

from app.entities.server import ServerState
from app.use_cases.reporting.last_hour import ActivityCounts, wait_range
from app.use_cases.reporting.recent_requests import RequestRecord
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Stop
from app.use_cases.scheduling.pool_state import PoolState
from workers.telemetry.pool_counts import is_eviction

MAX_RECORDS = 500  # a key sees those about its models
MINUTES = 60


class Activity:
    """Written by requests' threads and the pool's lock holder, under a lock that is held for a few microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: deque[RequestRecord] = deque(maxlen=MAX_RECORDS)
        self.version: object = object()  # another one after each request
        # By model; "" for requests of no model.
        self._hour: defaultdict[str, ActivityCounts] = defaultdict(ActivityCounts)
        # What the hour has, by minute of the monotonic clock.
        self._minutes: dict[int, defaultdict[str, ActivityCounts]] = {}

    def note(self, record: RequestRecord) -> None:
        """A request has ended."""
        with self._lock:
            self._records.appendleft(record)
            self.version = object()
            for of_model in self._counts_of(record.model or ""):
                of_model.counts["requests"] += 1
                of_model.counts["prompt_tokens"] += record.prompt_tokens or 0
                of_model.counts["completion_tokens"] += record.completion_tokens or 0
                if record.wait_seconds is not None:
                    of_model.waits[wait_range(record.wait_seconds)] += 1

    def count_step(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        """Loads that have succeeded, and evictions. Called by the pool's lock holder after every step."""
        if isinstance(event, ev.Ready):
            server = before.server(event.server)
            if server and server.state is ServerState.STARTING:
                self._count(server.model.name, "loads")
        for effect in effects:
            match effect:
                case Stop(number, why) if (server := before.server(number)) and is_eviction(server, why):
                    self._count(server.model.name, "evictions")

    def records(self) -> tuple[RequestRecord, ...]:
        """The last requests, the newest first."""
        with self._lock:
            return tuple(self._records)

    def last_hour(self) -> dict[str, ActivityCounts]:
        """Copies of what was counted, by model; "" for requests of no model."""
        with self._lock:
            self._forget_old(_minute_now())
            return {model: counts.copy() for model, counts in self._hour.items()}

    def _count(self, model: str, what: str) -> None:
        with self._lock:
            for of_model in self._counts_of(model):
                of_model.counts[what] += 1

    def _counts_of(self, model: str) -> tuple[ActivityCounts, ActivityCounts]:
        """Of the hour, and of this minute."""
        now = _minute_now()
        if now not in self._minutes:
            self._forget_old(now)
            self._minutes[now] = defaultdict(ActivityCounts)
        return self._hour[model], self._minutes[now][model]

    def _forget_old(self, now: int) -> None:
        for minute in [each for each in self._minutes if each <= now - MINUTES]:
            for model, counts in self._minutes.pop(minute).items():
                self._hour[model] = left = self._hour[model].without(counts)
                if not left.counts:
                    del self._hour[model]


def _minute_now() -> int:
    return int(time.monotonic() // 60)
