"""Making room: which loads may start, where, and which servers have to go for those that may not yet.

When somebody may be stopped or drained for a load says turns.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from math import inf

from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome, Placement, Resident
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import Books
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import NOTHING_EXTRA, PlacementRequest
from app.use_cases.placement.usable_gpus import are_usable
from app.use_cases.placement.world import World, world_of
from app.use_cases.scheduling import readings
from app.use_cases.scheduling.demand import load_seconds, rate
from app.use_cases.scheduling.events import Decided, Effect, Spawn, StopReason
from app.use_cases.scheduling.fairness import cold, had_its_own_at, has_its_turn, may_go_at, turn_at
from app.use_cases.scheduling.load_balancing import is_spare
from app.use_cases.scheduling.pool_state import (
    Basis,
    Load,
    PoolState,
    Step,
    Undecided,
    Waiter,
    changed,
    stop,
    turn_away_model,
)
from app.use_cases.scheduling.rejection import no_place, refusal

MOST_LOOKED_AT = 8  # loads at a time: a decision takes milliseconds
PAUSE_SECONDS = 0.05  # between two looks for nothing but a server that became idle


def make_room(state: PoolState, now: float) -> Step:
    """Each load for itself, in the order of their turns: one that has no room yet holds back none behind it, and none
    behind it takes what it waits for."""
    loads = cold(state, now)[:MOST_LOOKED_AT]
    state = readings.take_stock(state, now)
    decided, last = _decided(state, loads, now), state.undecided
    look = _Look(now, last) if decided and last else _Look(now)
    effects, lacks_readings = list[Effect](), False
    for number, waiting in enumerate(loads):
        is_decided = number < decided
        if not readings.are_fresh(state, waiting, now) and (state.returning or not is_decided):
            state, more = readings.ask(state, waiting, now)
            effects, lacks_readings = [*effects, *more], lacks_readings or not is_decided
        elif not is_decided:
            state, more = look.at(state, waiting)
            effects += more
    if decided and decided == len(loads):
        return _soon_again(state), effects
    left = cold(state, now)[:MOST_LOOKED_AT]
    return replace(state, undecided=None if lacks_readings or not left else look.seen(state, left)), effects


def eviction_due_at(state: PoolState) -> list[float]:
    """When time alone may give a load its place."""
    again_at = state.undecided.again_at if state.undecided else inf
    return [again_at] if again_at < inf else []


def _decided(state: PoolState, loads: list[Waiter], now: float) -> int:
    """How many of the loads were looked at already, with all as it is now."""
    last = state.undecided
    if last is None or now >= last.again_at or (_is_idler(state) and now >= last.at + PAUSE_SECONDS):
        return 0
    if last.loads != _named(state, loads[: len(last.loads)]):
        return 0
    return len(last.loads) if last.basis == _basis(state, now) else 0


def _is_idler(state: PoolState) -> bool:
    """A server that was busy at the last look is idle."""
    return state.undecided is not None and not state.undecided.busy <= _busy(state)


def _named(state: PoolState, loads: Iterable[Waiter]) -> tuple[Load, ...]:
    """How many wait is said in powers of two: each makes the load more urgent, but is no reason to look again."""
    waiters = Counter(each.model.name for each in state.wanting)
    return tuple((each.ticket, each.placement_request, waiters[each.model.name].bit_length()) for each in loads)


def _soon_again(state: PoolState) -> PoolState:
    """For a server that became idle, but not at each pause of a busy one."""
    last = state.undecided
    if last is None or not _is_idler(state):
        return state
    return replace(state, undecided=replace(last, again_at=min(last.again_at, last.at + PAUSE_SECONDS)))


class _Look:
    """One look at all loads that wait, with what those before were promised."""

    def __init__(self, now: float, last: Undecided | None = None) -> None:
        self.now = now
        self.again_at = last.again_at if last else inf
        self._state: PoolState | None = None
        self._seen: World | None = None  # in that state
        self._promises = list(last.promises) if last else []

    def seen(self, state: PoolState, loads: Iterable[Waiter]) -> Undecided:
        """What is known now of the loads that are left."""
        promises, basis = tuple(self._promises), _basis(state, self.now)
        return Undecided(_named(state, loads), promises, basis, _busy(state), self.now, self.again_at)

    def at(self, state: PoolState, waiting: Waiter) -> Step:
        name = waiting.model.name
        if why := no_place(state, waiting, self.now):
            state, more = turn_away_model(state, Refusal(Reason.NO_GPU, name, why))
            return state, [Decided(name, Decision(Outcome.REFUSE, why, needed_bytes=0), ()), *more]
        decision = self._in_time(state, waiting, self._decide(state, waiting))
        told: Effect = Decided(name, decision, _names(state, decision.evict))
        state, more = _carry_out(state, waiting, decision, self.now)
        return state, [told, *more]

    def _decide(self, state: PoolState, waiting: Waiter) -> Decision:
        """Beside those who come before it: where they may be what is in the way, it waits."""
        world = self._world(state)
        for place, going in self._promises:
            world = world.promised(place, going)
        decision = decide(request_with_lessons(state, waiting), world)
        if decision.outcome is Outcome.REFUSE and not decision.for_ever and self._promises:
            return Decision(Outcome.WAIT, "what room there is goes to those who came before", decision.needed_bytes)
        return decision

    def _world(self, state: PoolState) -> World:
        if state is not self._state or self._seen is None:
            self._state, self._seen = state, _world(state, self.now)
        return self._seen

    def _in_time(self, state: PoolState, waiting: Waiter, decision: Decision) -> Decision:
        """Nobody is stopped for it before that is worth it, and nobody is drained before its turn has come."""
        going = [server for server in state.servers if server.id in decision.evict]
        if decision.outcome is Outcome.EVICT:
            return self._once(may_go_at(state, waiting, going, self.now), decision, decision.placement)
        if decision.outcome is not Outcome.WAIT:
            return decision
        if going:
            decision = self._once(turn_at(state, waiting), decision, decision.awaited)
            return self._those_that_had_their_own(state, going, decision)
        if not has_its_turn(state, waiting, self.now):
            self._look_again(turn_at(state, waiting))
        return self._once(self.now, decision, decision.awaited)

    def _once(self, at: float, decision: Decision, place: Placement | None) -> Decision:
        """The decision, and the place is promised to it; before that time, that it waits."""
        if at > self.now:
            self._look_again(at)
            return _put_off(decision)
        if place is not None:
            self._promises.append((place, decision.evict))
        return decision

    def _those_that_had_their_own(self, state: PoolState, going: list[Server], decision: Decision) -> Decision:
        """Of those that are to go, the others later: their room is kept for it, or two would never be there at once."""
        later = {each.id: at for each in going if each.leases and (at := had_its_own_at(state, each)) > self.now}
        if later and decision.evict:
            self._look_again(min(later.values()))
        return replace(decision, evict=tuple(each for each in decision.evict if each not in later))

    def _look_again(self, at: float) -> None:
        self.again_at = min(self.again_at, max(at, self.now + PAUSE_SECONDS))


def _put_off(decision: Decision) -> Decision:
    if decision.outcome is Outcome.WAIT:
        return replace(decision, awaited=None, evict=())
    reason = f"{decision.reason}; it was used a moment ago, and stays until others have waited longer"
    return replace(decision, outcome=Outcome.WAIT, reason=reason, placement=None, evict=())


def _world(state: PoolState, now: float) -> World:
    world = bare_world(state, now)
    known = {server.id: server for server in state.servers}
    return replace(world, residents=tuple(_valued(state, each, known[each.id], now) for each in world.residents))


def bare_world(state: PoolState, now: float) -> World:
    """The machine as the last readings and the books show it; nothing of what its servers are worth."""
    return world_of(books(state), state.limits.policy, now, uses_gpus=are_usable(state.gpus.as_of(now)))


def books(state: PoolState) -> Books:
    assert state.memory is not None, "decisions are made on readings"
    limits = state.limits
    return Books(state.gpus, state.memory, state.servers, limits.rules, state.returning, limits.max_loaded)


def _valued(state: PoolState, resident: Resident, server: Server, now: float) -> Resident:
    """With what its settings and its requests say about stopping it."""
    ready_at = now if server.ready_at is None else server.ready_at
    spare = is_spare(state, server)
    return replace(
        resident,
        is_pinned=server.model.pin and not spare,
        is_spare=spare,
        is_loading=resident.is_loading and not spare,
        priority=server.model.priority,
        is_young=now < ready_at + state.limits.min_residency_seconds,
        rate=rate(state.demands, server.model, now),
        load_seconds=load_seconds(state.demands, server.model),
    )


def request_with_lessons(state: PoolState, waiting: Waiter) -> PlacementRequest:
    assert waiting.placement_request is not None, "who wants a server says what it needs"
    return waiting.placement_request.but(state.lessons.get(waiting.model.name, NOTHING_EXTRA))


def _basis(state: PoolState, now: float) -> Basis:
    up = {server.model.name for server in state.servers}
    return Basis(
        servers=tuple((server.id, server.state) for server in state.servers),
        spoken_for=frozenset(each.model.name for each in state.wanting) & up,
        has_gpus=are_usable(state.gpus.as_of(now)),
        room=books(state).at_a_glance() if state.memory else (),
    )


def _busy(state: PoolState) -> frozenset[int]:
    return frozenset(server.id for server in state.servers if server.leases or server.left_behind)


def _names(state: PoolState, servers: Iterable[int]) -> tuple[str, ...]:
    wanted = set(servers)
    return tuple(server.model.name for server in state.servers if server.id in wanted)


def _carry_out(state: PoolState, waiting: Waiter, decision: Decision, now: float) -> Step:
    match decision.outcome:
        case Outcome.PLACE:
            assert decision.placement is not None
            return spawn(state, waiting, decision.placement, now)
        case Outcome.EVICT | Outcome.WAIT:
            return _send_away(state, set(decision.evict), waiting)
        case Outcome.REFUSE:
            return turn_away_model(state, refusal(state, waiting, decision))


def spawn(state: PoolState, waiting: Waiter, placement: Placement, now: float) -> Step:
    assert waiting.placement_request is not None
    server = Server(
        id=state.next_server,
        model=waiting.model,
        placement=placement,
        booked=placement.booked_bytes,
        is_planned_anew=waiting.is_planned_anew,
        started_at=now,
        last_used=now,
        progress_at=now,
    )
    plans = {**state.plans, server.id: waiting.placement_request}
    state = replace(state, servers=(*state.servers, server), plans=plans, next_server=server.id + 1)
    return state, [Spawn(server)]


def _send_away(state: PoolState, going: set[int], waiting: Waiter) -> Step:
    """Stop the idle ones, and replicas that load. A busy one is never cut: it takes nothing new and goes with its last
    lease, so a request whose turn has come cannot starve behind a busy model; one that older requests wait for serves
    those first."""
    effects: list[Effect] = []
    wanted = waiting.model.name
    spoken_for = {each.model.name for each in takewhile(lambda each: each.ticket != waiting.ticket, state.wanting)}
    for server in state.servers:
        if server.id not in going or server.state not in (ServerState.READY, ServerState.STARTING):
            continue
        if server.is_idle or server.state is ServerState.STARTING:
            state, orders = stop(state, server, StopReason.ROOM, f"for {wanted}")
            effects += orders
        elif server.model.name not in spoken_for:
            state = changed(state, server.id, lambda s: replace(s.moved(ServerState.DRAINING), drained_for=wanted))
    return state, effects
