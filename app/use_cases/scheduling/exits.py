"""Exits: what the end of a server's process changes: its memory, its model's backoff, and its waiters."""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.releasing import memory_to_release
from app.use_cases.scheduling.backoff import with_failure, without_backoff
from app.use_cases.scheduling.blame import is_due_to_request
from app.use_cases.scheduling.effects import Effect, ProbeEngine
from app.use_cases.scheduling.events import Exited, GpuFailure
from app.use_cases.scheduling.gpu_exits import record_gpu_failure
from app.use_cases.scheduling.pool_state import (
    STARTING,
    STOPPING,
    Awaited,
    PoolState,
    ServerEnding,
    Step,
    Waiter,
    note_ending,
    note_failure,
    reject_model,
)
from app.use_cases.scheduling.quarantine import with_crash
from app.use_cases.scheduling.runtime_margin import margin_after_failure, raise_runtime_margin
from app.use_cases.scheduling.suspects import with_suspects

MIB = 1024**2


def record_exit(state: PoolState, event: Exited) -> Step:
    """The state without the server, and the rejections of the requests that waited for its load."""
    server = state.server(event.server)
    assert server is not None, f"server {event.server} exited twice"
    ended = server.with_state(ServerState.STOPPED if server.state is STOPPING else ServerState.FAILED)
    state = _without(state, server, event.at)
    if ended.state is ServerState.FAILED and server.ready_at is not None and server.in_flight:
        if event.gpu_failure is None or not (event.gpu_failure.is_unused or event.gpu_failure.is_of_card):
            return _record_crash(state, server, event), []
        state = note_ending(state, server, ServerEnding(event.detail))
    if ended.state is ServerState.FAILED:
        return _record_failure(state, server, event)
    if server.id in state.endings:  # it was killed in mid-answer
        state = _with_suspects(state, server, event)
    if server.ready_at is None:
        return state, []
    return replace(state, backoffs=without_backoff(state.backoffs, server.model.name)), []


def _without(state: PoolState, server: Server, at: float) -> PoolState:
    """The state without the server; the GPU memory it held is being released from `at` on."""
    others = state.servers_except(server)
    held = state.held_when_stopped.get(server.id)
    held = held or memory_to_release(server, others, state.gpus, at, state.releasing)
    return replace(
        state,
        servers=others,
        held_when_stopped={key: memory for key, memory in state.held_when_stopped.items() if key != server.id},
        placement_requests={key: request for key, request in state.placement_requests.items() if key != server.id},
        releasing=(*state.releasing, *(replace(memory, at=at) for memory in held)),
        last_exit_at=at,
    )


def _record_crash(state: PoolState, server: Server, event: Exited) -> PoolState:
    """A death in mid-answer is not the model's fault: it is loaded again at once. One that ran out of a GPU's memory is
    no request's fault either: more is booked."""
    if event.ran_out_of_memory and not server.placement.is_on_cpu:
        return _record_exhaustion(state, server)
    return _with_suspects(state, server, event)


def _with_suspects(state: PoolState, server: Server, event: Exited) -> PoolState:
    if not is_due_to_request(state, server, event.exit_code):
        return state
    return with_crash(with_suspects(state, server, event.at), server, event.at)


def _record_failure(state: PoolState, server: Server, event: Exited) -> Step:
    """A failed load is answered to its waiters; a later request may try again. A start that ran out of a GPU's memory
    is placed once more first. While the model has another server, nothing is rejected: the next try would be lost."""
    name, has_another = server.model.name, state.has_another(server)
    if event.gpu_failure is not None:
        return _record_gpu_failure(state, server, event, event.gpu_failure)
    if server.state is STARTING and event.ran_out_of_memory:
        state = replace(state, learned_margins={**state.learned_margins, name: margin_after_failure(server)})
        is_awaited = any(waiter.model.name == name for waiter in state.waiting_for_server)
        if is_awaited and not has_another and not server.is_replanned:
            return replace(state, waiting=tuple(_replanned(waiter, server) for waiter in state.waiting)), []
    if has_another or not event.could_not_spawn:
        state = replace(state, backoffs=with_failure(state.backoffs, server, event.at))
    if has_another:
        return state, []
    state = note_failure(state, server, event.detail, event.at, event.exit_code)
    if server.state is not STARTING:
        return state, []
    reason = Reason.SPAWN_FAILED if event.could_not_spawn else Reason.LOAD_FAILED
    return reject_model(state, Refusal(reason, name, event.detail))


def _record_gpu_failure(state: PoolState, server: Server, event: Exited, failure: GpuFailure) -> Step:
    """Its waiters are placed again, on other GPUs, if that can help; the engine is asked which it can use."""
    effects: list[Effect] = [ProbeEngine()]
    state, is_retried = record_gpu_failure(state, server, failure, event.at)
    if not state.has_another(server):
        state = note_failure(state, server, event.detail, event.at, event.exit_code)
    if is_retried:
        return state, effects
    state = replace(state, backoffs=with_failure(state.backoffs, server, event.at))
    if state.has_another(server) or server.state is not STARTING:
        return state, effects
    reason = Reason.NO_GPU if failure.is_unused else Reason.LOAD_FAILED
    state, refusals = reject_model(state, Refusal(reason, server.model.name, event.detail))
    return state, [*effects, *refusals]


def _replanned(waiter: Waiter, server: Server) -> Waiter:
    """Placed once more, on fresh readings and with the learned margin."""
    is_for_server = waiter.awaited is not Awaited.UNLOADED and waiter.model.name == server.model.name
    return replace(waiter, is_replanned=True) if is_for_server else waiter


def _record_exhaustion(state: PoolState, server: Server) -> PoolState:
    """It ran out of a GPU's memory while it answered: the model's next server gets more."""
    name = server.model.name
    state = raise_runtime_margin(state, server)
    why = (
        f"{name}: llama-server ran out of GPU memory during the request; {server.expected_bytes / MIB:.0f} MiB were "
        f"booked for it, from now on {state.runtime_margins[name].device_bytes / MIB:.0f} MiB more on each GPU than it "
        "reports"
    )
    return note_ending(state, server, ServerEnding(why))
