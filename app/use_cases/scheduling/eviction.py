"""Eviction: which waiting loads may start, where, and which servers are evicted or drained for the others.

Each load is decided for itself, in loading order: one that has to wait for memory delays none behind it, and the place
it waits for is reserved, so none behind it takes that. A load behind may use what is free now only as far as enough for
the reservation is released later, and evicts none of the servers that end for it. fairness.py says when a victim may be
evicted or drained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import inf

from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome
from app.use_cases.scheduling import readings
from app.use_cases.scheduling.decision_inputs import busy_servers, current_facts
from app.use_cases.scheduling.effects import Decided, Effect, StopReason
from app.use_cases.scheduling.evaluation import Evaluation
from app.use_cases.scheduling.fairness import waiting_loads
from app.use_cases.scheduling.load_decisions import (
    MIN_REEVALUATION_SECONDS,
    LoadDecider,
    load_keys,
    servers_among,
)
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    READY,
    STARTING,
    PoolState,
    Step,
    Waiter,
    reject_model,
    start_server,
    stop_server,
    update_server,
)
from app.use_cases.scheduling.rejection import gpu_problem, no_gpu, refusal_for
from app.use_cases.scheduling.restarts import with_restarts

MAX_EVALUATED_LOADS = 8  # in one step: a decision takes milliseconds


def place_or_evict(state: PoolState, now: float) -> Step:
    """Start, evict for, or reject the waiting loads; those decided on the same facts before are skipped."""
    state = readings.note_elapsed_time(state, now)
    loads = waiting_loads(state, now)[:MAX_EVALUATED_LOADS]
    last = _last_evaluation(state)
    if not loads:
        return replace(state, evaluation=None) if last else state, []
    decided = _count_decided(state, last, loads, now)
    decider, effects, lacks_readings = LoadDecider(now, last if decided else None), list[Effect](), False
    for number, waiter in enumerate(loads):
        is_decided = number < decided
        if not readings.are_fresh(state, waiter, now) and (state.releasing or not is_decided):
            state, orders = readings.request_readings(state, waiter, now)
            effects, lacks_readings = [*effects, *orders], lacks_readings or not is_decided
        elif not is_decided:
            state, orders = _decide(decider, state, waiter, now)
            effects += orders
    if last and decided == len(loads):
        return _soon_repeated(state, last), effects
    remaining = waiting_loads(state, now)[:MAX_EVALUATED_LOADS]
    evaluation = None if lacks_readings or not remaining else decider.evaluation(state, remaining)
    return replace(state, evaluation=evaluation), effects


def evaluation_due_times(state: PoolState) -> list[float]:
    """When time alone may let a waiting load start."""
    last = _last_evaluation(state)
    return [last.repeat_at] if last and last.repeat_at < inf else []


def _last_evaluation(state: PoolState) -> Evaluation | None:
    """That of loads; None if there is none, or only one of replicas."""
    return state.evaluation if state.evaluation and state.evaluation.loads else None


def _count_decided(state: PoolState, last: Evaluation | None, loads: Sequence[Waiter], now: float) -> int:
    """How many of the loads, counted from the first, were decided on the present facts already."""
    if last is None or now >= last.repeat_at:
        return 0
    if _has_new_idle_server(state, last) and now >= last.at + MIN_REEVALUATION_SECONDS:
        return 0
    if last.loads != load_keys(state, loads[: len(last.loads)]):
        return 0
    return len(last.loads) if last.facts == current_facts(state, now) else 0


def _has_new_idle_server(state: PoolState, last: Evaluation) -> bool:
    return not last.busy <= busy_servers(state)


def _soon_repeated(state: PoolState, last: Evaluation) -> PoolState:
    """A server that became idle is a reason to decide again, though not each time that a busy one pauses."""
    if not _has_new_idle_server(state, last):
        return state
    repeat_at = min(last.repeat_at, last.at + MIN_REEVALUATION_SECONDS)
    return replace(state, evaluation=replace(last, repeat_at=repeat_at))


def _decide(decider: LoadDecider, state: PoolState, waiter: Waiter, now: float) -> Step:
    """Decide about the load, and carry that out."""
    name = waiter.model.name
    if problem := gpu_problem(state, waiter, now):
        state, orders = reject_model(state, no_gpu(state, name, problem, now))
        return state, [Decided(name, Decision(Outcome.REFUSE, problem, needed_bytes=0), ()), *orders]
    decision = decider.decide(state, waiter)
    victims = servers_among(state, decision.evict)
    names = tuple(server.model.name for server in victims)
    idle = tuple(now - server.last_used if server.is_idle else None for server in victims)
    state, orders = _carry_out(state, waiter, decision, now)
    return state, [Decided(name, decision, names, idle), *orders]


def _carry_out(state: PoolState, waiter: Waiter, decision: Decision, now: float) -> Step:
    match decision.outcome:
        case Outcome.PLACE:
            assert decision.placement is not None
            return start_server(state, waiter, decision.placement, now)
        case Outcome.EVICT | Outcome.WAIT:
            return _evict(with_restarts(state, {*decision.restarts} & {*decision.evict}), decision, waiter)
    assert decision.outcome is Outcome.REFUSE, "no placement decision stops a server"
    return reject_model(state, refusal_for(state, waiter, decision, now))


def _evict(state: PoolState, decision: Decision, waiter: Waiter) -> Step:
    """Stop the idle victims, and replicas that load. Busy ones are drained, never cut: they accept nothing new and end
    with their last lease, so a starving request cannot wait behind them for ever. Those that older requests wait for
    serve these first."""
    effects: list[Effect] = []
    model = waiter.model.name
    older = takewhile(lambda other: other.ticket != waiter.ticket, state.waiting_for_server)
    awaited_models = {other.model.name for other in older}
    for server in state.servers:
        if server.id not in decision.evict or server.state not in (READY, STARTING):
            continue
        if server.is_idle or server.state is STARTING:
            why = StopReason.PROMPT_CACHE if server.id in decision.restarts else StopReason.EVICTED
            state, orders = stop_server(state, server, why, f"for {model}")
            effects += orders
        elif server.model.name not in awaited_models:
            state = update_server(state, server.id, lambda s: replace(s.with_state(DRAINING), drained_for=model))
    return state, effects
