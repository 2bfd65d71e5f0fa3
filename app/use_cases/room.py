"""Making room: which loads may start, where, and which servers have to go for those that may not yet."""

from __future__ import annotations

from collections.abc import Iterable

from app.entities.frozen import replace
from app.entities.placement import CPU, Card, Decision, Outcome, Placement
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases import readings
from app.use_cases.asked import NOTHING_EXTRA, Asked
from app.use_cases.cards import allowed
from app.use_cases.events import Decided, Effect, Spawn, StopReason
from app.use_cases.gpu_use import are_usable, why_no_place
from app.use_cases.ledger import Books
from app.use_cases.placement import decide
from app.use_cases.pool_state import Basis, PoolState, Step, Waiting, changed, stop, turn_away_model
from app.use_cases.world import World, world_of


def make_room(state: PoolState, now: float) -> Step:
    """Loads start in the order of the queue; one that has no room yet holds back the loads behind it."""
    state = readings.take_stock(state, now)
    effects: list[Effect] = []
    spoken_for: set[str] = set()  # models that older requests wait for
    refused: set[str] = set()  # and with the oldest, all who waited for them
    for waiting in state.wanting:
        name = waiting.model.name
        if name in refused:
            continue
        if state.server_of(name) is not None:
            spoken_for.add(name)
            continue  # loading for it already, busy, or on its way out: not up twice
        is_decided = state.undecided == _basis(state, waiting, spoken_for)
        if not readings.are_fresh(state, waiting, now) and (state.returning or not is_decided):
            state, more = readings.ask(state, waiting, now)
            return state, [*effects, *more]
        if is_decided:
            break
        if why := _why_no_place(state, waiting, now):
            state, more = turn_away_model(state, Refusal(Reason.NO_GPU, name, why))
            effects += [Decided(name, Decision(Outcome.REFUSE, why, needed_bytes=0), ()), *more]
            refused.add(name)
            continue
        decision = decide(_asked(state, waiting), _world(state, now))
        effects.append(Decided(name, decision, _names(state, decision.evict)))
        state, more = _carry_out(state, waiting, decision, spoken_for, now)
        effects += more
        if decision.outcome is Outcome.REFUSE:
            refused.add(name)
        if decision.outcome in (Outcome.EVICT, Outcome.WAIT):
            state = replace(state, undecided=_basis(state, waiting, spoken_for))
            break
    return state, effects


def _why_no_place(state: PoolState, waiting: Waiting, now: float) -> str:
    """A model that is to have no layers on GPUs misses none."""
    if waiting.asked is not None and not waiting.asked.options.n_gpu_layers:
        return ""
    return why_no_place(state.gpus.as_of(now), state.limits.cpu_fallback)


def _world(state: PoolState, now: float) -> World:
    assert state.memory is not None, "decisions are made on readings"
    limits = state.limits
    books = Books(state.gpus, state.memory, state.servers, limits.rules, state.returning, limits.max_loaded)
    return world_of(books, limits.policy, now, uses_gpus=are_usable(state.gpus.as_of(now)))


def _asked(state: PoolState, waiting: Waiting) -> Asked:
    assert waiting.asked is not None, "who wants a server says what it needs"
    return waiting.asked.but(state.lessons.get(waiting.model.name, NOTHING_EXTRA))


def _basis(state: PoolState, waiting: Waiting, spoken_for: Iterable[str]) -> Basis:
    assert waiting.asked is not None
    return Basis(
        ticket=waiting.ticket,
        asked=waiting.asked,
        servers=tuple((server.id, server.state, server.booked) for server in state.servers),
        spoken_for=frozenset(spoken_for),
        memory_at=state.memory.at if state.memory else 0.0,
        gpus_at=state.gpus.at,
        returning=state.returning,
    )


def _names(state: PoolState, servers: Iterable[int]) -> tuple[str, ...]:
    wanted = set(servers)
    return tuple(server.model.name for server in state.servers if server.id in wanted)


def _carry_out(state: PoolState, waiting: Waiting, decision: Decision, spoken_for: set[str], now: float) -> Step:
    match decision.outcome:
        case Outcome.PLACE:
            assert decision.placement is not None
            return _spawn(state, waiting, decision.placement, now)
        case Outcome.EVICT | Outcome.WAIT:
            return _send_away(state, set(decision.evict), spoken_for, waiting.model.name)
        case Outcome.REFUSE:
            return turn_away_model(state, _refusal(state, waiting, decision))


def _refusal(state: PoolState, waiting: Waiting, decision: Decision) -> Refusal:
    model = waiting.model.name
    if decision.for_ever and _misses_gpus(state, waiting):  # with them it might fit
        why = "; ".join((decision.reason, *state.gpus.complaints))
        return Refusal(Reason.NO_GPU, model, why, decision.needed_bytes, decision.free_bytes)
    if decision.for_ever:
        had = _had(state, decision)
        return Refusal(Reason.DOES_NOT_FIT, model, decision.reason, decision.needed_bytes, had, decision.advise)
    free = decision.free_bytes
    return Refusal(Reason.INSUFFICIENT_MEMORY, model, decision.reason, decision.needed_bytes, free, decision.advise)


def _misses_gpus(state: PoolState, waiting: Waiting) -> bool:
    """Whether GPUs are missing that it might use."""
    if waiting.asked is None or not waiting.asked.options.n_gpu_layers:
        return False
    missing = (Card(gpu.uuid, gpu.name, gpu.index, 0, 0) for gpu in state.gpus.missing)
    return bool(allowed(missing, waiting.asked.wishes))


def _had(state: PoolState, decision: Decision) -> dict[str, int]:
    """What may be had of an empty machine, where the decision says what is free."""
    assert state.memory is not None
    books = Books(state.gpus, state.memory, (), state.limits.rules)
    totals = {card.uuid: card.total_bytes for card in books.cards()} | {CPU: state.memory.total_bytes}
    return {device: totals[device] for device in decision.free_bytes}


def _spawn(state: PoolState, waiting: Waiting, placement: Placement, now: float) -> Step:
    assert waiting.asked is not None
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
    plans = {**state.plans, server.id: waiting.asked}
    state = replace(state, servers=(*state.servers, server), plans=plans, next_server=server.id + 1)
    return state, [Spawn(server)]


def _send_away(state: PoolState, going: set[int], spoken_for: set[str], wanted: str) -> Step:
    """Stop the idle ones. A busy one is never cut: it takes nothing new and goes with its last lease, so the oldest
    request in the queue cannot starve behind a busy model; one that older requests wait for serves those first."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.id not in going or server.state is not ServerState.READY:
            continue
        if server.is_idle:
            state, orders = stop(state, server, StopReason.ROOM, f"for {wanted}")
            effects += orders
        elif server.model.name not in spoken_for:
            state = changed(state, server.id, lambda s: replace(s.moved(ServerState.DRAINING), drained_for=wanted))
    return state, effects
