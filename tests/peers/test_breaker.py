"""When a peer that failed is left alone, and when it is tried once more."""

from __future__ import annotations

from app.entities.peer import BreakerState
from app.use_cases.peers.breaker import Breaker, breaker_pause_seconds


def failing(*times: float) -> Breaker:
    breaker = Breaker()
    for at in times:
        breaker = breaker.failed(began_at=at, now=at)
    return breaker


def test_one_failure_may_be_an_accident():
    assert failing(1.0).state(1.0) is BreakerState.CLOSED
    assert failing(1.0, 2.0).state(2.0) is BreakerState.OPEN


def test_requests_that_fail_together_count_as_one_failure():
    """A peer that restarts cuts all of its answers at once."""
    breaker = failing(10.0)
    for _ in range(20):
        breaker = breaker.failed(began_at=3.0, now=10.1)
    assert breaker == failing(10.0)


def test_after_the_pause_one_request_is_the_attempt():
    breaker = failing(1.0, 2.0)
    assert breaker.admit(6.9) is None
    assert breaker.state(7.0) is BreakerState.HALF_OPEN
    tried = breaker.admit(7.0)
    assert tried is not None and tried.admit(7.1) is None
    # The attempt is not answered within a pause: another one may try.
    assert tried.admit(12.0) is not None


def test_each_failed_attempt_doubles_the_pause():
    assert [breaker_pause_seconds(failures) for failures in (2, 3, 4, 5, 6, 7, 99)] == [5, 10, 20, 40, 60, 60, 60]
    tried = failing(1.0, 2.0).admit(7.0)
    assert tried is not None
    assert tried.failed(began_at=7.0, now=8.0).open_until == 18.0
