"""WaitCounts: how long requests have waited, by what they waited for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry

from app.use_cases.reporting.waiting import wait_cause, waiting_groups
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Done, Effect, Grant, Refuse
from app.use_cases.scheduling.pool_state import PoolState, Waiter
from workers.telemetry.families import CounterFamily

# While a queue is long, a step takes microseconds and looking at all who wait does not. What they wait for may change
# in between, and counts as what it is at the end.
INTERVAL_SECONDS = 0.25


class WaitCounts:
    """Updated after every step by the pool's lock holder: the time since the last count, for everybody who waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        help_text = "Time that requests have spent waiting, by what they waited for."
        self._seconds = CounterFamily(registry, "wait_seconds", help_text, "model", "cause")
        self._counted_at = 0.0  # monotonic seconds

    def count_step(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        if not before.waiting:
            self._counted_at = event.at
        elif event.at >= self._counted_at + INTERVAL_SECONDS:
            for waiters in waiting_groups(before):
                self._count(before, waiters, event.at)
            self._counted_at = event.at
        elif left := _tickets(event, effects):
            for waiter in before.waiting:
                if waiter.ticket in left:
                    self._count(before, [waiter], event.at)

    def _count(self, pool: PoolState, waiters: Sequence[Waiter], now: float) -> None:
        """All of them wait for the same."""
        waited = sum(max(0.0, now - max(waiter.since, self._counted_at)) for waiter in waiters)
        self._seconds.inc(waiters[0].model.name, wait_cause(pool, waiters[0], now), by=waited)


def _tickets(event: ev.Event, effects: Iterable[Effect]) -> set[int]:
    """Of the requests that wait no longer."""
    ended = {effect.ticket for effect in effects if isinstance(effect, (Grant, Refuse, Done))}
    return ended | {event.ticket} if isinstance(event, ev.Cancel) else ended
