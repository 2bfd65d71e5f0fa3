"""Fairness: the order in which models are loaded, and how long a loaded model is protected from eviction.

Evicting a model in frequent use is expensive twice: its next requests wait for a reload, and the reload costs GPU
seconds. An idle server in frequent use is therefore evicted only when one of these holds:

1. the waiters for this load have together waited EVICTION_COST_FACTOR times as long as the eviction would make the
   server's own requests wait (not if its model has the higher priority);
2. the server has not been used for `min_residency_seconds`;
3. the oldest waiter has waited STARVATION_FRACTION of `max_wait_seconds` (starvation guard).

Two models that alternate on one GPU are therefore served in batches, with fewer than one swap per
`min_residency_seconds`. `python -m bench.scheduling` drives this code and shows where the numbers come from.

Pure: time arrives with the arguments, nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.server import Server
from app.use_cases.scheduling.demand import (
    RATE_DECAY_SECONDS,
    expected_load_seconds,
    measured_load_seconds,
    request_rate,
)
from app.use_cases.scheduling.load_balancing import is_surplus
from app.use_cases.scheduling.pool_state import STARTING, PoolState, Waiter
from app.use_cases.scheduling.round_robin import models_by_key_in_turn

EVICTION_COST_FACTOR = 20.0  # a larger one means fewer loads and longer waits (bench/scheduling)
SWAP_OVERHEAD_SECONDS = 2.0  # from a stop to the next start, including the time until the memory is released
STARVATION_FRACTION = 0.4  # of max_wait_seconds
NEARLY_LOADED = 0.8  # a load for nobody that is so far is finished
MIN_SERVICE_FRACTION = 0.2  # of max_wait_seconds: for so long a busy server serves its own waiters undisturbed


def waiting_loads(state: PoolState, now: float) -> list[Waiter]:
    """The oldest waiter for each model without a server, in loading order: starving ones first, then by priority, then
    keys in turn, then by arrival."""
    loaded = {server.model.name for server in state.servers}
    oldest: dict[str, Waiter] = {}
    oldest_of_key: dict[tuple[str, str], Waiter] = {}
    for waiter in state.waiting_for_server:
        if waiter.model.name not in loaded:
            oldest.setdefault(waiter.model.name, waiter)
            oldest_of_key.setdefault((waiter.model.name, waiter.key), waiter)
    names = models_by_key_in_turn(tuple(oldest_of_key.values()), state.load_rotation)
    return sorted(
        (oldest[name] for name in names),
        key=lambda waiter: (0, 0) if is_starving(state, waiter, now) else _rank(waiter),
    )


def _rank(waiter: Waiter) -> tuple[int, int]:
    return 1, -waiter.model.priority


def starvation_at(state: PoolState, waiter: Waiter) -> float:
    """From this time on busy servers are drained for the waiter, and eviction protection no longer applies."""
    return waiter.since + STARVATION_FRACTION * state.limits.max_wait_seconds


def is_starving(state: PoolState, waiter: Waiter, now: float) -> bool:
    return now >= starvation_at(state, waiter)


def drain_allowed_at(state: PoolState, server: Server) -> float:
    """From this time on a busy server may be drained for a starving waiter.

    Until then it serves its own waiters: where all have waited long, each server would otherwise be drained after its
    first answers.
    """
    return _ready_at(server) + MIN_SERVICE_FRACTION * state.limits.max_wait_seconds


def _ready_at(server: Server) -> float:
    return server.started_at if server.ready_at is None else server.ready_at


def is_abandoned_load(state: PoolState, server: Server, now: float) -> bool:
    """Whether the server still loads, without having nearly finished, although nobody waits for its model any more.

    By the progress it reports, else by how long the model's last load took. Without either it has not: an estimate by
    size would call a load from a slow disk finished that has hardly begun.
    """
    if server.state is not STARTING or server.is_load_ordered:
        return False
    if any(waiter.model.name == server.model.name for waiter in state.waiting_for_server):
        return False
    progress = server.load_progress
    if progress is None:
        seconds = measured_load_seconds(state.demands, server.model)
        progress = 0.0 if seconds is None else (now - server.started_at) / seconds
    return progress < NEARLY_LOADED


def eviction_allowed_at(state: PoolState, waiter: Waiter, victims: Sequence[Server], now: float) -> float:
    """Earliest time (monotonic seconds) at which `victims` may be evicted for `waiter`; `<= now` means at once.

    Surplus replicas and abandoned loads are never protected.
    """
    victims = [s for s in victims if not (is_surplus(state, s) or is_abandoned_load(state, s, now))]
    if not victims:
        return now
    unused_at = max(server.last_used for server in victims) + state.limits.min_residency_seconds
    times = [unused_at, starvation_at(state, waiter)]
    if all(server.model.priority <= waiter.model.priority for server in victims):
        times.append(_outweighs_cost_at(state, waiter, victims, now))
    return min(times)


def _outweighs_cost_at(state: PoolState, waiter: Waiter, victims: Sequence[Server], now: float) -> float:
    """When the waits for this load add up to EVICTION_COST_FACTOR times the waiting that the eviction causes."""
    since = [other.since for other in state.waiting_for_server if other.model.name == waiter.model.name]
    cost = EVICTION_COST_FACTOR * sum(_caused_wait_seconds(state, waiter, server, now) for server in victims)
    return (cost + sum(since)) / len(since)


def _caused_wait_seconds(state: PoolState, waiter: Waiter, victim: Server, now: float) -> float:
    """How long the victim's own requests would wait, all together: those that arrive until it could be loaded again,
    each for half of that time on average.

    A single request is no evidence of a next one, and after a burst the rate is bounded by the time since the last use.
    """
    loads_seconds = sum(expected_load_seconds(state.demands, model) for model in (waiter.model, victim.model))
    away_seconds = loads_seconds + SWAP_OVERHEAD_SECONDS
    idle_seconds = max(1e-3, now - victim.last_used)
    rate = min(request_rate(state.demands, victim.model, now) - 1 / RATE_DECAY_SECONDS, 1 / idle_seconds)
    return max(0.0, rate) * away_seconds * away_seconds / 2
