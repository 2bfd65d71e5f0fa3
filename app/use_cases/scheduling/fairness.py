"""Turns: whose load comes before whose, and how long what is loaded is kept from those who wait.

A load costs seconds of a GPU, and the requests that come for the stopped model meanwhile wait for two. So an idle
server that is asked for often goes only when those who wait have waited far longer, all together, than its own
requests would have to; or when it was left alone for its residency; or when the oldest has waited for 40 % of the
longest wait: then its turn has come, whatever it costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.server import Server
from app.use_cases.scheduling.demand import RATE_DECAY_SECONDS, load_seconds, request_rate
from app.use_cases.scheduling.load_balancing import is_surplus
from app.use_cases.scheduling.pool_state import PoolState, Waiter

EVICTION_COST_FACTOR = (
    20.0  # seconds waited for a second spared; bench/scheduling: more, and there are fewer loads and longer waits
)
SWAP_OVERHEAD_SECONDS = 2.0  # from a stop to the next start, memory on its way back included
STARVATION_FRACTION = 0.4  # of the longest wait
MIN_SERVICE_FRACTION = 0.2  # of the longest wait: so long a busy server goes on with those who wait for it


def waiting_loads(state: PoolState, now: float) -> list[Waiter]:
    """Of each model without a server the oldest request, in the order of their turns: those whose patience is over,
    then by priority, then as they came."""
    up = {server.model.name for server in state.servers}
    first: dict[str, Waiter] = {}
    for waiter in state.waiting_for_server:
        if waiter.model.name not in up:
            first.setdefault(waiter.model.name, waiter)
    return sorted(first.values(), key=lambda each: (0, 0) if is_starving(state, each, now) else _by_priority(each))


def _by_priority(waiter: Waiter) -> tuple[int, int]:
    return 1, -waiter.model.priority


def starvation_at(state: PoolState, waiter: Waiter) -> float:
    """From then on busy servers are drained for it, and nothing is kept from it for being worth more."""
    return waiter.since + STARVATION_FRACTION * state.limits.max_wait_seconds


def is_starving(state: PoolState, waiter: Waiter, now: float) -> bool:
    return now >= starvation_at(state, waiter)


def drain_allowed_at(state: PoolState, server: Server) -> float:
    """From then on a busy server may be drained for one whose turn has come: for a while it has served those who waited
    for it. Where all have waited for long, each would be drained after its first answers otherwise."""
    return _ready_at(server) + MIN_SERVICE_FRACTION * state.limits.max_wait_seconds


def _ready_at(server: Server) -> float:
    return server.started_at if server.ready_at is None else server.ready_at


def eviction_allowed_at(state: PoolState, waiter: Waiter, going: Sequence[Server], now: float) -> float:
    """When these idle servers may be stopped for it, if nothing else happens: any time up to now means now. Those that
    are not missed may at once."""
    going = [server for server in going if not is_surplus(state, server)]
    if not going:
        return now
    left_alone_at = max(server.last_used for server in going) + state.limits.min_residency_seconds
    times = [left_alone_at, starvation_at(state, waiter)]
    if all(server.model.priority <= waiter.model.priority for server in going):
        times.append(_outweighs_cost_at(state, waiter, going, now))
    return min(times)


def _outweighs_cost_at(state: PoolState, waiter: Waiter, going: Sequence[Server], now: float) -> float:
    """When the waits together reach what stopping would cost."""
    since = [each.since for each in state.waiting_for_server if each.model.name == waiter.model.name]
    spared = EVICTION_COST_FACTOR * sum(_caused_wait_seconds(state, waiter, server, now) for server in going)
    return (spared + sum(since)) / len(since)


def _caused_wait_seconds(state: PoolState, waiter: Waiter, server: Server, now: float) -> float:
    """Seconds, of all requests that will come for it until it could be loaded again: half of that time each. One
    request alone says nothing of a next one, and a burst that is over is not asked for as often as it was."""
    away = load_seconds(state.demands, waiter.model) + load_seconds(state.demands, server.model) + SWAP_OVERHEAD_SECONDS
    often = min(
        request_rate(state.demands, server.model, now) - 1 / RATE_DECAY_SECONDS, 1 / max(1e-3, now - server.last_used)
    )
    return max(0.0, often) * away * away / 2
