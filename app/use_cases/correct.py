"""Correcting: what a starting server says it needs, against what was booked for it."""

from __future__ import annotations

from dataclasses import replace

from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.allocate import NoFit, held_bytes, place
from app.use_cases.events import Effect
from app.use_cases.pool_state import STARTING, Failure, PoolState, Step, Waiting, Want, changed, stop, turn_away_model

MIB = 1024**2


def correct_bookings(state: PoolState, now: float) -> Step:
    """Less is booked at once. More is, if there is room for it; else the start ends before its weights move."""
    effects: list[Effect] = []
    for server in state.servers:
        needed_bytes = server.reported_bytes
        if server.state is not STARTING or needed_bytes is None or needed_bytes == server.expected_bytes:
            continue
        no_fit = _no_room(state, server, needed_bytes)
        if no_fit is None:
            state = changed(state, server.id, lambda s: replace(s, expected_bytes=s.reported_bytes or 0))
            continue
        state, more = _end_the_start(state, server, no_fit, now)
        effects += more
    return state, effects


def _no_room(state: PoolState, server: Server, needed_bytes: int) -> NoFit | None:
    """Why it may not stay, beside all others and with what it holds already. Less than booked always fits."""
    if needed_bytes < server.expected_bytes:
        return None
    assert state.memory is not None, "it was started on a reading"
    others = [s for s in state.servers if s.id != server.id]
    return place(needed_bytes, state.memory, others, held_bytes(server, state.memory))


def _end_the_start(state: PoolState, server: Server, no_fit: NoFit, now: float) -> Step:
    """Who waits for it waits on and is planned for anew, with what it said: room is made for that, or it is refused.

    Once: a second start that needs more again, without room for it, is not followed by a third.
    """
    needed, booked, usable = (
        f"{size / MIB:.0f} MiB" for size in (no_fit.needed_bytes, server.expected_bytes, no_fit.usable_bytes)
    )
    detail = f"{server.model.name}: its llama-server needs {needed}, {booked} were booked and {usable} can be had"
    effects: list[Effect] = []
    if server.is_planned_anew:
        state, effects = turn_away_model(state, _refusal(server, no_fit, detail))
    state = replace(state, waiting=tuple(_corrected(w, server) for w in state.waiting))
    if not any(w.model.name == server.model.name for w in state.wanting):
        # Nobody else would learn of it; the next request is planned with what it said.
        state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
    state, orders = stop(state, server, detail)
    return state, [*effects, *orders]


def _corrected(waiting: Waiting, server: Server) -> Waiting:
    is_for_it = waiting.want is not Want.UNLOADED and waiting.model.is_served_as(server.model)
    if not is_for_it or waiting.model.name != server.model.name:
        return waiting
    return replace(waiting, needed_bytes=server.reported_bytes or 0, is_planned_anew=True)


def _refusal(server: Server, no_fit: NoFit, detail: str) -> Refusal:
    reason = Reason.INSUFFICIENT_MEMORY if no_fit.ever else Reason.DOES_NOT_FIT
    return Refusal(reason, server.model.name, detail, no_fit.needed_bytes, no_fit.usable_bytes)
