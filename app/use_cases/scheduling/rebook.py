"""Correcting: what a starting server says it needs, against what was booked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.frozen import replace
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.request import NO_MARGIN, LearnedMargin
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.pool_state import (
    STARTING,
    Failure,
    PoolState,
    Step,
    Waiter,
    reject_model,
    stop_server,
    update_server,
)

MIB = 1024**2


def rebook_starting_servers(state: PoolState, now: float) -> Step:
    """Less is booked at once. More is, if there is room for it; else the start ends before its weights move."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.state is not STARTING or server.reported is None or server.reported == server.booked:
            continue
        if not _is_seen(state, server):
            continue  # a GPU of it is lost for now
        shortage = _shortage(state, server, server.reported)
        if shortage is None:
            state = update_server(state, server.id, lambda s: replace(s, booked=s.reported or s.booked))
            continue
        state, more = _abort_start(state, server, shortage, now)
        effects += more
    return state, effects


@dataclass(frozen=True, slots=True)
class _Shortage:
    """There is not enough of a device."""

    device: str
    needed_bytes: int
    booked_bytes: int
    room_bytes: int
    total_bytes: int


def reported_excess(server: Server) -> LearnedMargin:
    """How much more a server says it needs than was thought when it was placed."""
    more = {what: size - server.placement.booked_bytes.get(what, 0) for what, size in (server.reported or {}).items()}
    on_gpus = (size for what, size in more.items() if what != CPU)
    return LearnedMargin(max(0, *on_gpus, 0), max(0, more.get(CPU, 0)))


def _is_seen(state: PoolState, server: Server) -> bool:
    """Whether there is a reading of each device it is on."""
    return server.booked.keys() <= {CPU, *(gpu.uuid for gpu in state.gpus.gpus if gpu.free_bytes is not None)}


def _shortage(state: PoolState, server: Server, needs: Mapping[str, int]) -> _Shortage | None:
    """Where there is no room for it, beside all others and with what it holds already. Less than booked always fits."""
    more = {what: size for what, size in needs.items() if size > server.booked.get(what, 0)}
    if not more:
        return None
    assert state.memory is not None, "it was started on a reading"
    ledger = Ledger(state.gpus, state.memory, state.servers, state.limits.gpu_limits, state.releasing)
    room = ledger.available_to(server)
    short = [what for what, size in more.items() if size > room[what]]
    if not short:
        return None
    worst = max(short, key=lambda what: more[what] - room[what])
    totals = {CPU: state.memory.total_bytes} | {card.uuid: card.total_bytes for card in ledger.cards()}
    return _Shortage(worst, more[worst], server.booked.get(worst, 0), max(0, room[worst]), totals[worst])


def _abort_start(state: PoolState, server: Server, shortage: _Shortage, now: float) -> Step:
    """Who waits for it waits on and is planned for anew, with what it said: room is made for that, or it is refused.

    Once: a second start that needs more again, without room for it, is not followed by a third.
    """
    needed, booked, room = (
        f"{size / MIB:.0f} MiB" for size in (shortage.needed_bytes, shortage.booked_bytes, shortage.room_bytes)
    )
    where = "of RAM" if shortage.device == CPU else f"on {shortage.device}"
    detail = f"{server.model.name}: its llama-server needs {needed} {where}, {booked} were booked and {room} can be had"
    effects: list[Effect] = []
    if state.has_another(server):  # nobody waits for this one; the next is placed by what it said
        known = state.learned_margins.get(server.model.name, NO_MARGIN)
        state = replace(
            state, learned_margins={**state.learned_margins, server.model.name: known + reported_excess(server)}
        )
        return stop_server(state, server, StopReason.TOO_LARGE, detail)
    if server.is_replanned:
        state, effects = reject_model(state, _refusal(server, shortage, detail))
    state = replace(state, waiting=tuple(_with_reported_needs(w, server) for w in state.waiting))
    if not any(w.model.name == server.model.name for w in state.waiting_for_server):
        # Nobody else would learn of it; the next request is planned with what it said.
        state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
    state, orders = stop_server(state, server, StopReason.TOO_LARGE, detail)
    return state, [*effects, *orders]


def _with_reported_needs(waiter: Waiter, server: Server) -> Waiter:
    is_for_it = waiter.placement_request is not None and waiter.model.is_served_as(server.model)
    if waiter.placement_request is None or not is_for_it or waiter.model.name != server.model.name:
        return waiter
    return replace(
        waiter, placement_request=waiter.placement_request.with_margin(reported_excess(server)), is_replanned=True
    )


def _refusal(server: Server, shortage: _Shortage, detail: str) -> Refusal:
    could_be = shortage.needed_bytes <= shortage.total_bytes
    reason = Reason.INSUFFICIENT_MEMORY if could_be else Reason.DOES_NOT_FIT
    free = {shortage.device: shortage.room_bytes if could_be else shortage.total_bytes}
    return Refusal(reason, server.model.name, detail, shortage.needed_bytes, free)
