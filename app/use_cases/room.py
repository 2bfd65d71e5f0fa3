"""Making room: which loads may start, and which servers have to go for those that may not yet."""

from __future__ import annotations

from dataclasses import replace

from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases.allocate import held_bytes, place
from app.use_cases.events import Effect, ReadMemory, Spawn
from app.use_cases.pool_state import PoolState, Step, Waiting, changed, stop, turn_away_model

MAX_READING_AGE_SECONDS = 1.0  # strangers come and go


def make_room(state: PoolState, now: float) -> Step:
    """Loads start in the order of the queue; one that has no room yet holds back the loads behind it."""
    effects: list[Effect] = []
    spoken_for: set[str] = set()  # models that older requests wait for
    for waiting in state.wanting:
        if state.server_of(waiting.model.name) is not None:
            spoken_for.add(waiting.model.name)
            continue  # loading for it already, busy, or on its way out: not up twice
        if not _reading_is_fresh(state, waiting, now):
            return _ask_for_a_reading(state, now, effects)
        if _fits_without(state, set(), waiting.needed_bytes):
            state, spawn = _spawn(state, waiting, now)
            effects += spawn
            continue
        state, more, decided = _free_some(state, waiting, spoken_for)
        effects += more
        if not decided:
            break
    return state, effects


def _reading_is_fresh(state: PoolState, waiting: Waiting, now: float) -> bool:
    """Taken since the request came, since bytes last came back, and just now: no start on stale numbers."""
    youngest_fact = max(waiting.since, state.last_exit_at, now - MAX_READING_AGE_SECONDS)
    return state.memory is not None and state.memory.at >= youngest_fact


def _ask_for_a_reading(state: PoolState, now: float, effects: list[Effect]) -> Step:
    if state.memory_asked_at is None:
        state = replace(state, memory_asked_at=now)
        effects.append(ReadMemory())
    return state, effects


def _spawn(state: PoolState, waiting: Waiting, now: float) -> Step:
    server = Server(
        id=state.next_server,
        model=waiting.model,
        expected_bytes=waiting.needed_bytes,
        is_planned_anew=waiting.is_planned_anew,
        last_used=now,
        progress_at=now,
    )
    return replace(state, servers=(*state.servers, server), next_server=server.id + 1), [Spawn(server)]


def _free_some(state: PoolState, waiting: Waiting, spoken_for: set[str]) -> tuple[PoolState, list[Effect], bool]:
    """Stop or drain the servers that have to go for `waiting`. True when its request was refused instead.

    Bytes that are leaving are neither free nor a reason to stop another server: they are waited for first. Idle
    servers go before busy ones, the longest unused first. A busy server is never cut: it takes nothing new
    and goes with its last lease, so the oldest request in the queue cannot starve behind a busy model. One that
    older requests wait for, or that is still loading, serves those first.
    """
    going = {s.id for s in state.servers if s.state in (ServerState.STOPPING, ServerState.DRAINING)}
    order = sorted((s for s in state.servers if s.id not in going), key=_value)
    while not _fits_without(state, going, waiting.needed_bytes):
        if not order:
            if any(s.state is ServerState.STARTING for s in state.servers):
                return state, [], False  # what is ours is in the way for now: once it is ready it can be stopped
            refused, refusals = _refuse_for_room(state, waiting.model.name, waiting.needed_bytes)
            return refused, refusals, True
        going.add(order.pop(0).id)
    return *_send_away(state, going, spoken_for, waiting.model.name), False


def _send_away(state: PoolState, going: set[int], spoken_for: set[str], wanted: str) -> Step:
    effects: list[Effect] = []
    for server in state.servers:
        if server.id not in going or server.state is not ServerState.READY:
            continue
        if server.is_idle:
            state, orders = stop(state, server, f"room for {wanted}")
            effects += orders
        elif server.model.name not in spoken_for:
            state = changed(state, server.id, lambda s: s.moved(ServerState.DRAINING))
    return state, effects


def _value(server: Server) -> tuple[bool, bool, float]:
    """Sort key: what is lost by stopping a server. Idle before busy before loading, longest unused first."""
    return (server.state is ServerState.STARTING, not server.is_idle, server.last_used)


def _fits_without(state: PoolState, going: set[int], needed_bytes: int) -> bool:
    """Whether one more server may be there, and has room, once the servers `going` were gone and their bytes back."""
    assert state.memory is not None
    staying = [s for s in state.servers if s.id not in going]
    if state.limits.max_loaded is not None and len(staying) >= state.limits.max_loaded:
        return False
    back = sum(held_bytes(s, state.memory) for s in state.servers if s.id in going)
    return place(needed_bytes, state.memory, staying, back) is None


def _refuse_for_room(state: PoolState, model: str, needed_bytes: int) -> Step:
    """Even with all of ours gone there is no room: for now if others hold it, for ever if the machine is too small."""
    assert state.memory is not None
    no_fit = place(needed_bytes, state.memory, state.servers)
    assert no_fit is not None, "what does not fit into an emptier machine does not fit into this one"
    refusal = Refusal(
        Reason.INSUFFICIENT_MEMORY if no_fit.ever else Reason.DOES_NOT_FIT,
        model,
        needed_bytes=needed_bytes,
        usable_bytes=state.memory.available_bytes if no_fit.ever else no_fit.total_bytes,
    )
    return turn_away_model(state, refusal)
