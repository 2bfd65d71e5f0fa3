"""Rebooking: what a starting server reports that it needs, against what was booked for it.

The report is believed, device by device. If it needs less, the rest is free at once. If it needs more, that is booked
if it is available next to the other servers; else the start is aborted before its weights are loaded, and the waiters,
still in the queue, are placed again with the reported needs: others are evicted for that, or the waiters are
rejected. A start that was placed with such a report is not aborted for it again; if it then needs even more, its
waiters are rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from app.entities.frozen import replace
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.request import NO_MARGIN, LearnedMargin
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.pool_state import (
    STARTING,
    PoolState,
    Step,
    Waiter,
    note_failure,
    reject_model,
    stop_server,
    update_server,
)
from app.use_cases.scheduling.runtime_margin import bytes_to_book

MIB = 1024**2


def rebook_starting_servers(state: PoolState, now: float) -> Step:
    """Book what starting servers report; abort those for which there is not enough memory."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.state is not STARTING or server.reported is None:
            continue
        needs = bytes_to_book(state, server, server.reported)
        if needs == server.booked:
            continue
        if not _are_devices_read(state, server):
            continue  # one of its GPUs is lost for now
        shortage = _shortage(state, server, needs)
        if shortage is None:
            state = update_server(state, server.id, partial(replace, booked=needs))
            continue
        state, orders = _abort_start(state, server, shortage, now)
        effects += orders
    return state, effects


@dataclass(frozen=True, slots=True)
class _Shortage:
    """A device does not have enough memory for what a server reports."""

    device: str
    needed_bytes: int
    booked_bytes: int
    available_bytes: int
    total_bytes: int


def reported_excess(server: Server) -> LearnedMargin:
    """How much more a server reports than was estimated when it was placed."""
    estimated = server.placement.booked_bytes
    estimated = {**estimated, CPU: estimated[CPU] - server.placement.prompt_cache_bytes}
    excess = {device: size - estimated.get(device, 0) for device, size in (server.reported or {}).items()}
    on_gpus = (size for device, size in excess.items() if device != CPU)
    return LearnedMargin(max(0, *on_gpus, 0), max(0, excess.get(CPU, 0)))


def _are_devices_read(state: PoolState, server: Server) -> bool:
    return server.booked.keys() <= {CPU, *(gpu.uuid for gpu in state.gpus.gpus)}


def _shortage(state: PoolState, server: Server, needs: Mapping[str, int]) -> _Shortage | None:
    """The device that lacks most for these needs, next to all other servers and including what the server holds
    already; None if they fit. A device that needs no more than was booked always fits."""
    needs = {**needs, CPU: needs[CPU] - server.spare_cache_bytes}  # no start fails for what was only spare
    by_memory, before = server.placement.by_memory(needs), server.placement.by_memory(server.booked)
    increased = {device: size for device, size in by_memory.items() if size > before.get(device, 0)}
    if not increased:
        return None
    assert state.memory is not None, "the server was started on a reading"
    ledger = Ledger(state.gpus, state.memory, state.servers, state.limits.gpu_limits, state.releasing)
    available = ledger.available_to(server)
    short = [device for device, size in increased.items() if size > available[device]]
    if not short:
        return None
    worst = max(short, key=lambda device: increased[device] - available[device])
    totals = {CPU: ledger.shared_totals()[CPU]} | {card.uuid: card.total_bytes for card in ledger.cards()}
    return _Shortage(worst, increased[worst], before.get(worst, 0), max(0, available[worst]), totals[worst])


def _abort_start(state: PoolState, server: Server, shortage: _Shortage, now: float) -> Step:
    """Stop the server; its waiters stay in the queue, with what it reported added to their requests."""
    detail, effects = _detail(server, shortage), list[Effect]()
    if state.has_another(server):  # no request waits for this one; the next is placed with what it reported
        known = state.learned_margins.get(server.model.name, NO_MARGIN)
        margins = {**state.learned_margins, server.model.name: known + reported_excess(server)}
        return stop_server(replace(state, learned_margins=margins), server, StopReason.TOO_LARGE, detail)
    if server.is_replanned:
        state, effects = reject_model(state, _refusal(server, shortage, detail))
    state = replace(state, waiting=tuple(_with_reported_needs(waiter, server) for waiter in state.waiting))
    if not any(waiter.model.name == server.model.name for waiter in state.waiting_for_server):
        # No waiter would see the reason. The next request is placed with what was reported.
        state = note_failure(state, server, detail, now)
    state, orders = stop_server(state, server, StopReason.TOO_LARGE, detail)
    return state, [*effects, *orders]


def _detail(server: Server, shortage: _Shortage) -> str:
    sizes = shortage.needed_bytes, shortage.booked_bytes, shortage.available_bytes
    needed, booked, available = (f"{size / MIB:.0f} MiB" for size in sizes)
    where = "of RAM" if shortage.device == CPU else f"on {shortage.device}"
    return (
        f"{server.model.name}: its llama-server needs {needed} {where}, "
        f"{booked} were booked and {available} are available"
    )


def _with_reported_needs(waiter: Waiter, server: Server) -> Waiter:
    request, model = waiter.placement_request, waiter.model
    if request is None or model.name != server.model.name or not model.is_served_as(server.model):
        return waiter
    return replace(waiter, placement_request=request.with_margin(reported_excess(server)), is_replanned=True)


def _refusal(server: Server, shortage: _Shortage, detail: str) -> Refusal:
    could_fit = shortage.needed_bytes <= shortage.total_bytes
    reason = Reason.INSUFFICIENT_MEMORY if could_fit else Reason.DOES_NOT_FIT
    free = {shortage.device: shortage.available_bytes if could_fit else shortage.total_bytes}
    return Refusal(reason, server.model.name, detail, shortage.needed_bytes, free)
