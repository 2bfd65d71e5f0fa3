"""Breaker: a peer that failed is left alone for a while, so that nobody waits for it.

    closed --FAILURES in a row--> open --pause--> half open --success--> closed
                                    ^------------failure---------'

The request that is let through half open makes it open for the others, until that request succeeds or the pause is
over. Pure: times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.entities.peer import BreakerState

FAILURES = 2  # one may be an accident, such as a restart
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Breaker:
    failures: int = 0  # in a row
    failed_at: float = float("-inf")  # the last of them
    open_until: float = float("-inf")

    def state(self, now: float) -> BreakerState:
        if self.failures < FAILURES:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> Breaker | None:
        """The breaker once a request is on its way; None if none may go."""
        match self.state(now):
            case BreakerState.CLOSED:
                return self
            case BreakerState.HALF_OPEN:
                return replace(self, open_until=now + breaker_pause_seconds(self.failures))
            case _:
                return None

    def failed(self, began_at: float, now: float) -> Breaker:
        """A request that began then has failed. Of those that began before the last failure, none says anything new."""
        if began_at < self.failed_at:
            return self
        failures = self.failures + 1
        return Breaker(failures, now, now + breaker_pause_seconds(failures))


def breaker_pause_seconds(failures: int) -> float:
    """How long a peer is left alone after so many failures in a row."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(max(0, failures - FAILURES), 10), MAX_PAUSE_SECONDS))
