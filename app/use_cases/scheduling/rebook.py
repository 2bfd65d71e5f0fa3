"""Correcting: what a starting server says it needs, against what was booked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.frozen import replace
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.placement.ledger import Books
from app.use_cases.placement.request import NOTHING_EXTRA, Extra
from app.use_cases.scheduling.events import Effect, StopReason
from app.use_cases.scheduling.pool_state import (
    STARTING,
    Failure,
    PoolState,
    Step,
    Waiter,
    changed,
    stop,
    turn_away_model,
)

MIB = 1024**2


def correct_bookings(state: PoolState, now: float) -> Step:
    """Less is booked at once. More is, if there is room for it; else the start ends before its weights move."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.state is not STARTING or server.reported is None or server.reported == server.booked:
            continue
        if not _is_seen(state, server):
            continue  # a GPU of it is lost for now
        lack = _lack(state, server, server.reported)
        if lack is None:
            state = changed(state, server.id, lambda s: replace(s, booked=s.reported or s.booked))
            continue
        state, more = _end_the_start(state, server, lack, now)
        effects += more
    return state, effects


@dataclass(frozen=True, slots=True)
class _Lack:
    """There is not enough of a device."""

    device: str
    needed_bytes: int
    booked_bytes: int
    room_bytes: int
    total_bytes: int


def lacked(server: Server) -> Extra:
    """How much more a server says it needs than was thought when it was placed."""
    more = {what: size - server.placement.booked_bytes.get(what, 0) for what, size in (server.reported or {}).items()}
    on_gpus = (size for what, size in more.items() if what != CPU)
    return Extra(max(0, *on_gpus, 0), max(0, more.get(CPU, 0)))


def _is_seen(state: PoolState, server: Server) -> bool:
    """Whether there is a reading of each device it is on."""
    return server.booked.keys() <= {CPU, *(gpu.uuid for gpu in state.gpus.gpus if gpu.free_bytes is not None)}


def _lack(state: PoolState, server: Server, needs: Mapping[str, int]) -> _Lack | None:
    """Where there is no room for it, beside all others and with what it holds already. Less than booked always fits."""
    more = {what: size for what, size in needs.items() if size > server.booked.get(what, 0)}
    if not more:
        return None
    assert state.memory is not None, "it was started on a reading"
    books = Books(state.gpus, state.memory, state.servers, state.limits.rules, state.returning)
    room = books.room_beside(server)
    short = [what for what, size in more.items() if size > room[what]]
    if not short:
        return None
    worst = max(short, key=lambda what: more[what] - room[what])
    totals = {CPU: state.memory.total_bytes} | {card.uuid: card.total_bytes for card in books.cards()}
    return _Lack(worst, more[worst], server.booked.get(worst, 0), max(0, room[worst]), totals[worst])


def _end_the_start(state: PoolState, server: Server, lack: _Lack, now: float) -> Step:
    """Who waits for it waits on and is planned for anew, with what it said: room is made for that, or it is refused.

    Once: a second start that needs more again, without room for it, is not followed by a third.
    """
    needed, booked, room = (f"{size / MIB:.0f} MiB" for size in (lack.needed_bytes, lack.booked_bytes, lack.room_bytes))
    where = "of RAM" if lack.device == CPU else f"on {lack.device}"
    detail = f"{server.model.name}: its llama-server needs {needed} {where}, {booked} were booked and {room} can be had"
    effects: list[Effect] = []
    if state.has_another(server):  # nobody waits for this one; the next is placed by what it said
        known = state.lessons.get(server.model.name, NOTHING_EXTRA)
        state = replace(state, lessons={**state.lessons, server.model.name: known + lacked(server)})
        return stop(state, server, StopReason.TOO_LARGE, detail)
    if server.is_planned_anew:
        state, effects = turn_away_model(state, _refusal(server, lack, detail))
    state = replace(state, waiting=tuple(_corrected(w, server) for w in state.waiting))
    if not any(w.model.name == server.model.name for w in state.wanting):
        # Nobody else would learn of it; the next request is planned with what it said.
        state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
    state, orders = stop(state, server, StopReason.TOO_LARGE, detail)
    return state, [*effects, *orders]


def _corrected(waiting: Waiter, server: Server) -> Waiter:
    is_for_it = waiting.placement_request is not None and waiting.model.is_served_as(server.model)
    if waiting.placement_request is None or not is_for_it or waiting.model.name != server.model.name:
        return waiting
    return replace(waiting, placement_request=waiting.placement_request.but(lacked(server)), is_planned_anew=True)


def _refusal(server: Server, lack: _Lack, detail: str) -> Refusal:
    could_be = lack.needed_bytes <= lack.total_bytes
    reason = Reason.INSUFFICIENT_MEMORY if could_be else Reason.DOES_NOT_FIT
    free = {lack.device: lack.room_bytes if could_be else lack.total_bytes}
    return Refusal(reason, server.model.name, detail, lack.needed_bytes, free)
