"""Turns: whose load comes before whose, and how long what is loaded is kept from those who wait.

A load costs seconds of a GPU, and the requests that come for the stopped model meanwhile wait for two. So an idle
server that is asked for often goes only when those who wait have waited far longer, all together, than its own
requests would have to; or when it was left alone for its residency; or when the oldest has waited for 40 % of the
longest wait: then its turn has come, whatever it costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.server import Server
from app.use_cases.scheduling.demand import RATE_SECONDS, load_seconds, rate
from app.use_cases.scheduling.load_balancing import is_spare
from app.use_cases.scheduling.pool_state import PoolState, Waiter

WORTH = 20.0  # seconds waited for a second spared; bench/scheduling: more, and there are fewer loads and longer waits
BETWEEN_SECONDS = 2.0  # from a stop to the next start, memory on its way back included
PATIENT_SHARE = 0.4  # of the longest wait
BATCH_SHARE = 0.2  # of the longest wait: so long a busy server goes on with those who wait for it


def cold(state: PoolState, now: float) -> list[Waiter]:
    """Of each model without a server the oldest request, in the order of their turns: those whose patience is over,
    then by priority, then as they came."""
    up = {server.model.name for server in state.servers}
    first: dict[str, Waiter] = {}
    for waiting in state.wanting:
        if waiting.model.name not in up:
            first.setdefault(waiting.model.name, waiting)
    return sorted(first.values(), key=lambda each: (0, 0) if has_its_turn(state, each, now) else _by_priority(each))


def _by_priority(waiting: Waiter) -> tuple[int, int]:
    return 1, -waiting.model.priority


def turn_at(state: PoolState, waiting: Waiter) -> float:
    """From then on busy servers are drained for it, and nothing is kept from it for being worth more."""
    return waiting.since + PATIENT_SHARE * state.limits.max_wait_seconds


def has_its_turn(state: PoolState, waiting: Waiter, now: float) -> bool:
    return now >= turn_at(state, waiting)


def had_its_own_at(state: PoolState, server: Server) -> float:
    """From then on a busy server may be drained for one whose turn has come: for a while it has served those who waited
    for it. Where all have waited for long, each would be drained after its first answers otherwise."""
    return _ready_at(server) + BATCH_SHARE * state.limits.max_wait_seconds


def _ready_at(server: Server) -> float:
    return server.started_at if server.ready_at is None else server.ready_at


def may_go_at(state: PoolState, waiting: Waiter, going: Sequence[Server], now: float) -> float:
    """When these idle servers may be stopped for it, if nothing else happens: any time up to now means now. Those that
    are not missed may at once."""
    going = [server for server in going if not is_spare(state, server)]
    if not going:
        return now
    left_alone_at = max(server.last_used for server in going) + state.limits.min_residency_seconds
    times = [left_alone_at, turn_at(state, waiting)]
    if all(server.model.priority <= waiting.model.priority for server in going):
        times.append(_worth_it_at(state, waiting, going, now))
    return min(times)


def _worth_it_at(state: PoolState, waiting: Waiter, going: Sequence[Server], now: float) -> float:
    """When the waits together reach what stopping would cost."""
    since = [each.since for each in state.wanting if each.model.name == waiting.model.name]
    spared = WORTH * sum(_waits_caused(state, waiting, server, now) for server in going)
    return (spared + sum(since)) / len(since)


def _waits_caused(state: PoolState, waiting: Waiter, server: Server, now: float) -> float:
    """Seconds, of all requests that will come for it until it could be loaded again: half of that time each. One
    request alone says nothing of a next one, and a burst that is over is not asked for as often as it was."""
    away = load_seconds(state.demands, waiting.model) + load_seconds(state.demands, server.model) + BETWEEN_SECONDS
    often = min(rate(state.demands, server.model, now) - 1 / RATE_SECONDS, 1 / max(1e-3, now - server.last_used))
    return max(0.0, often) * away * away / 2
