"""Load decisions: what is decided about each waiting load, one after the other, and until when it stands.

A load that has to wait reserves the place it waits for. fairness.py says from when on its victims may be evicted or
drained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf

from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome, Placement
from app.entities.server import Server
from app.entities.wait_cause import WaitCause
from app.use_cases.placement.world import World
from app.use_cases.scheduling.decision_inputs import (
    busy_servers,
    current_facts,
    decide_load,
    world_with_eviction_costs,
)
from app.use_cases.scheduling.evaluation import DecidedLoad, Evaluation, LoadKey, Reservation
from app.use_cases.scheduling.fairness import drain_allowed_at, eviction_allowed_at, is_starving, starvation_at
from app.use_cases.scheduling.other_processes import next_standing_at
from app.use_cases.scheduling.pool_state import PoolState, Waiter

OTHERS_POLL_SECONDS = 5.0  # between two looks at what other processes hold, for a load that waits for them
MIN_REEVALUATION_SECONDS = 0.05  # between two evaluations for nothing but a server that became idle


def load_keys(state: PoolState, loads: Iterable[Waiter]) -> tuple[LoadKey, ...]:
    """The number of waiters counts in powers of two: each makes the load more urgent, but does not merit a decision."""
    waiters = Counter(waiter.model.name for waiter in state.waiting_for_server)
    return tuple((load.ticket, load.placement_request, waiters[load.model.name].bit_length()) for load in loads)


class LoadDecider:
    """Decides waiting loads one after the other, keeping the reservations of those before."""

    def __init__(self, now: float, last: Evaluation | None) -> None:
        self._now = now
        self._repeat_at = last.repeat_at if last else inf
        self._reservations: list[Reservation] = list(last.reservations) if last else []
        self._loads = {load.model: load for load in last.decided} if last else {}
        self._protected_until: float | None = None  # the victims of the load that is being decided
        self._state: PoolState | None = None
        self._world: World | None = None  # of that state

    def evaluation(self, state: PoolState, remaining: Iterable[Waiter]) -> Evaluation:
        """What the decisions about the loads that remain are, and what they depended on."""
        remaining = tuple(remaining)
        return Evaluation(
            current_facts(state, self._now),
            self._now,
            self._repeat_at,
            load_keys(state, remaining),
            tuple(self._reservations),
            busy_servers(state),
            tuple(self._loads[load.model.name] for load in remaining if load.model.name in self._loads),
        )

    def decide(self, state: PoolState, waiter: Waiter) -> Decision:
        """The decision about this load, postponed to the time at which its victims may be evicted or drained."""
        decided, self._protected_until = self._decision(state, waiter), None
        decision = self._when_allowed(state, waiter, decided)
        self._loads[waiter.model.name] = DecidedLoad(waiter.model.name, decision, self._protected_until)
        return decision

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
            reason = "the free memory is reserved for earlier requests"
            return Decision(Outcome.WAIT, reason, decision.needed_bytes, cause=WaitCause.RESERVED)
        return decision

    def _world_of(self, state: PoolState) -> World:
        if state is not self._state or self._world is None:
            self._state, self._world = state, world_with_eviction_costs(state, self._now)
        return self._world

    def _when_allowed(self, state: PoolState, waiter: Waiter, decision: Decision) -> Decision:
        """The decision, postponed to the time at which its victims may be evicted, or drained if they are busy."""
        victims = servers_among(state, decision.evict)
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
            self._protected_until = at
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


def servers_among(state: PoolState, ids: Sequence[int]) -> list[Server]:
    return [server for server in state.servers if server.id in ids]


def _postponed(decision: Decision) -> Decision:
    if decision.outcome is Outcome.WAIT:
        return replace(decision, awaited_placement=None, evict=(), restarts=())
    reason = f"{decision.reason}; in frequent use, so protected from eviction until others have waited longer"
    waits = replace(decision, outcome=Outcome.WAIT, reason=reason, placement=None, evict=())
    return replace(waits, cause=WaitCause.PROTECTED, awaited=decision.evict, restarts=())
