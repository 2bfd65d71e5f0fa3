"""Eviction: which waiting loads may start, where, and which servers are evicted or drained for the others.

Each load is decided for itself, in loading order: one that has to wait for memory delays none behind it, and the place
it waits for is reserved, so none behind it takes that. A load behind may use what is free now only as far as enough for
the reservation is released later, and evicts none of the servers that end for it. fairness.py says when a victim may be
evicted or drained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from math import inf

from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome, Placement
from app.entities.server import Server
from app.use_cases.placement.world import World
from app.use_cases.scheduling import readings
from app.use_cases.scheduling.decision_inputs import (
    busy_servers,
    current_facts,
    decide_load,
    world_with_eviction_costs,
)
from app.use_cases.scheduling.effects import Decided, Effect, StopReason
from app.use_cases.scheduling.evaluation import Evaluation, LoadKey, Reservation
from app.use_cases.scheduling.fairness import (
    drain_allowed_at,
    eviction_allowed_at,
    is_starving,
    starvation_at,
    waiting_loads,
)
from app.use_cases.scheduling.other_processes import next_standing_at
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

MAX_EVALUATED_LOADS = 8  # in one step: a decision takes milliseconds
OTHERS_POLL_SECONDS = 5.0  # between two looks at what other processes hold, for a load that waits for them
MIN_REEVALUATION_SECONDS = 0.05  # between two evaluations for nothing but a server that became idle


def place_or_evict(state: PoolState, now: float) -> Step:
    """Start, evict for, or reject the waiting loads; those decided on the same facts before are skipped."""
    state = readings.note_elapsed_time(state, now)
    loads = waiting_loads(state, now)[:MAX_EVALUATED_LOADS]
    last = _last_evaluation(state)
    if not loads:
        return replace(state, evaluation=None) if last else state, []
    decided = _count_decided(state, last, loads, now)
    decider, effects, lacks_readings = _Decider(now, last if decided else None), list[Effect](), False
    for number, waiter in enumerate(loads):
        is_decided = number < decided
        if not readings.are_fresh(state, waiter, now) and (state.releasing or not is_decided):
            state, orders = readings.request_readings(state, waiter, now)
            effects, lacks_readings = [*effects, *orders], lacks_readings or not is_decided
        elif not is_decided:
            state, orders = decider.decide(state, waiter)
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
    if last.loads != _load_keys(state, loads[: len(last.loads)]):
        return 0
    return len(last.loads) if last.facts == current_facts(state, now) else 0


def _has_new_idle_server(state: PoolState, last: Evaluation) -> bool:
    return not last.busy <= busy_servers(state)


def _load_keys(state: PoolState, loads: Iterable[Waiter]) -> tuple[LoadKey, ...]:
    """The number of waiters counts in powers of two: each makes the load more urgent, but does not merit a decision."""
    waiters = Counter(waiter.model.name for waiter in state.waiting_for_server)
    return tuple((load.ticket, load.placement_request, waiters[load.model.name].bit_length()) for load in loads)


def _soon_repeated(state: PoolState, last: Evaluation) -> PoolState:
    """A server that became idle is a reason to decide again, though not each time that a busy one pauses."""
    if not _has_new_idle_server(state, last):
        return state
    repeat_at = min(last.repeat_at, last.at + MIN_REEVALUATION_SECONDS)
    return replace(state, evaluation=replace(last, repeat_at=repeat_at))


class _Decider:
    """Decides waiting loads one after the other, keeping the reservations of those before."""

    def __init__(self, now: float, last: Evaluation | None) -> None:
        self._now = now
        self._repeat_at = last.repeat_at if last else inf
        self._reservations: list[Reservation] = list(last.reservations) if last else []
        self._state: PoolState | None = None
        self._world: World | None = None  # of that state

    def evaluation(self, state: PoolState, remaining: Iterable[Waiter]) -> Evaluation:
        """What the decisions about the loads that remain depended on."""
        return Evaluation(
            current_facts(state, self._now),
            self._now,
            self._repeat_at,
            _load_keys(state, remaining),
            tuple(self._reservations),
            busy_servers(state),
        )

    def decide(self, state: PoolState, waiter: Waiter) -> Step:
        name = waiter.model.name
        if problem := gpu_problem(state, waiter, self._now):
            state, orders = reject_model(state, no_gpu(state, name, problem, self._now))
            return state, [Decided(name, Decision(Outcome.REFUSE, problem, needed_bytes=0), ()), *orders]
        decision = self._when_allowed(state, waiter, self._decision(state, waiter))
        victims = tuple(server.model.name for server in _servers(state, decision.evict))
        state, orders = _carry_out(state, waiter, decision, self._now)
        return state, [Decided(name, decision, victims), *orders]

    def _decision(self, state: PoolState, waiter: Waiter) -> Decision:
        """With the reservations taken into account: where they may be what is in the way, the load waits."""
        world = self._world_of(state)
        for place, victims in self._reservations:
            world = world.with_reservation(place, victims)
        decision = decide_load(state, waiter, world)
        if decision.shorter_ctx_size and is_starving(state, waiter, self._now):
            taken = self._world_of(state).with_others_taken().taken
            decision = decide_load(state, waiter, replace(world, taken=taken))
        is_short = decision.outcome is Outcome.REFUSE and not decision.is_permanent
        if (is_short or decision.shorter_ctx_size) and self._reservations:
            return Decision(Outcome.WAIT, "the free memory is reserved for earlier requests", decision.needed_bytes)
        return decision

    def _world_of(self, state: PoolState) -> World:
        if state is not self._state or self._world is None:
            self._state, self._world = state, world_with_eviction_costs(state, self._now)
        return self._world

    def _when_allowed(self, state: PoolState, waiter: Waiter, decision: Decision) -> Decision:
        """The decision, postponed to the time at which its victims may be evicted, or drained if they are busy."""
        victims = _servers(state, decision.evict)
        if decision.outcome is Outcome.EVICT:
            allowed_at = eviction_allowed_at(state, waiter, victims, self._now)
            return self._reserved_from(allowed_at, decision, decision.placement)
        if decision.outcome is not Outcome.WAIT:
            return decision
        if victims:
            decision = self._reserved_from(starvation_at(state, waiter), decision, decision.awaited_placement)
            return self._without_protected(state, victims, decision)
        if not is_starving(state, waiter, self._now):
            self._repeat_by(starvation_at(state, waiter))
        if decision.shorter_ctx_size:
            self._repeat_by(min(next_standing_at(state, self._now), self._now + OTHERS_POLL_SECONDS))
        return self._reserved_from(self._now, decision, decision.awaited_placement)

    def _reserved_from(self, at: float, decision: Decision, place: Placement | None) -> Decision:
        """From `at` on the decision, with its place reserved; before, that the load waits."""
        if at > self._now:
            self._repeat_by(at)
            return _postponed(decision)
        if place is not None:
            self._reservations.append((place, decision.evict))
        return decision

    def _without_protected(self, state: PoolState, victims: Sequence[Server], decision: Decision) -> Decision:
        """Busy victims that still serve their own waiters are drained later. The memory of the others stays reserved
        until then, or the memory of both would never be free at once."""
        later = {
            server.id: at for server in victims if server.leases and (at := drain_allowed_at(state, server)) > self._now
        }
        if later and decision.evict:
            self._repeat_by(min(later.values()))
        return replace(decision, evict=tuple(victim for victim in decision.evict if victim not in later))

    def _repeat_by(self, at: float) -> None:
        self._repeat_at = min(self._repeat_at, max(at, self._now + MIN_REEVALUATION_SECONDS))


def _servers(state: PoolState, ids: Sequence[int]) -> list[Server]:
    return [server for server in state.servers if server.id in ids]


def _postponed(decision: Decision) -> Decision:
    if decision.outcome is Outcome.WAIT:
        return replace(decision, awaited_placement=None, evict=())
    reason = f"{decision.reason}; in frequent use, so protected from eviction until others have waited longer"
    return replace(decision, outcome=Outcome.WAIT, reason=reason, placement=None, evict=())


def _carry_out(state: PoolState, waiter: Waiter, decision: Decision, now: float) -> Step:
    match decision.outcome:
        case Outcome.PLACE:
            assert decision.placement is not None
            return start_server(state, waiter, decision.placement, now)
        case Outcome.EVICT | Outcome.WAIT:
            return _evict(state, set(decision.evict), waiter)
    assert decision.outcome is Outcome.REFUSE, "no placement decision stops a server"
    return reject_model(state, refusal_for(state, waiter, decision, now))


def _evict(state: PoolState, victims: set[int], waiter: Waiter) -> Step:
    """Stop the idle victims, and replicas that load. Busy ones are drained, never cut: they accept nothing new and end
    with their last lease, so a starving request cannot wait behind them for ever. Those that older requests wait for
    serve these first."""
    effects: list[Effect] = []
    model = waiter.model.name
    older = takewhile(lambda other: other.ticket != waiter.ticket, state.waiting_for_server)
    awaited_models = {other.model.name for other in older}
    for server in state.servers:
        if server.id not in victims or server.state not in (READY, STARTING):
            continue
        if server.is_idle or server.state is STARTING:
            state, orders = stop_server(state, server, StopReason.EVICTED, f"for {model}")
            effects += orders
        elif server.model.name not in awaited_models:
            state = update_server(state, server.id, lambda s: replace(s.with_state(DRAINING), drained_for=model))
    return state, effects
