"""GPU exits: what the end of a server that failed on its GPUs means for these, and whether others are tried."""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.gpu import Gpu
from app.entities.server import Server
from app.use_cases.placement.cards import allowed_cards
from app.use_cases.scheduling.card_failures import (
    CardFailures,
    cards_tried,
    with_failed_load,
    with_own_engine_failed,
    with_unused_cards,
    without_model,
    without_set_aside,
)
from app.use_cases.scheduling.events import GpuFailure
from app.use_cases.scheduling.pool_state import PoolState


def record_gpu_failure(state: PoolState, server: Server, failure: GpuFailure, at: float) -> tuple[PoolState, bool]:
    """(the state in which its cards are blamed, whether its requests may be placed again). `state`: without the server.

    They may if the last failure says something new: another card that is avoided from now on, or set aside.
    """
    before, name = state.card_failures, server.model.name
    has_own_engine = server.model.launch.engine is not None
    if failure.is_unused and not has_own_engine:
        blamed = tuple(uuid for uuid in server.placement.uuids if not _has_server_up(state, uuid))
        return _with(state, with_unused_cards(before, blamed, failure.detail, at), at), bool(blamed)
    blamed = _failed_cards(server, failure)
    is_other_up = any(each.is_up and not set(blamed) & set(each.placement.uuids) for each in _on_gpus(state))
    if has_own_engine:
        state = _with(state, with_own_engine_failed(before, blamed, name), at)
    else:
        state = _with(state, with_failed_load(before, blamed, name, failure.detail, at, is_other_up), at)
    if not set(blamed) <= cards_tried(before, name) and _has_untried_card(state, server):
        return state, True
    if {gpu.uuid for gpu in _gpus_for(state, server)} <= cards_tried(state.card_failures, name):
        state = _with(state, without_model(state.card_failures, name), at)
    return state, False


def _with(state: PoolState, failures: CardFailures, at: float) -> PoolState:
    return replace(state, card_failures=failures, gpus=without_set_aside(state.gpus, failures, at))


def _on_gpus(state: PoolState) -> list[Server]:
    return [server for server in state.servers if not server.placement.is_on_cpu]


def _has_server_up(state: PoolState, uuid: str) -> bool:
    """Whether another server uses this card: then the failure has another cause."""
    return any(server.is_up and uuid in server.placement.uuids for server in _on_gpus(state))


def _failed_cards(server: Server, failure: GpuFailure) -> tuple[str, ...]:
    """The card that the engine names; all of them if it names none."""
    uuids = server.placement.uuids
    return uuids if failure.device is None or failure.device >= len(uuids) else (uuids[failure.device],)


def _gpus_for(state: PoolState, server: Server) -> tuple[Gpu, ...]:
    """Those that its engine can use."""
    return state.gpus.seen_by(server.model.launch.engine).gpus


def _has_untried_card(state: PoolState, server: Server) -> bool:
    tried = cards_tried(state.card_failures, server.model.name)
    untried = (gpu for gpu in _gpus_for(state, server) if gpu.uuid not in tried)
    return bool(allowed_cards(untried, server.model.constraints))
