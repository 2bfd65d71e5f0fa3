"""The queue in words: who waits for which model, for how long, and for what.

A load's reason comes from the last decision about it, which the scheduler keeps until it decides again.
"""

from __future__ import annotations

from app.entities.gpu import GpuState
from app.entities.server import Server, ServerState
from app.entities.wait_cause import WaitCause
from app.use_cases.reporting.phrases import duration_text
from app.use_cases.scheduling.demand import measured_load_seconds
from app.use_cases.scheduling.evaluation import DecidedLoad
from app.use_cases.scheduling.pool_state import DRAINING, STOPPING, Awaited, PoolState, Waiter
from app.use_cases.scheduling.suspects import is_suspect

NOT_SHOWN = "another model"  # of a server that has ended since, or whose model the reader may not see
Reason = tuple[str, str]  # the cause, and a sentence without subject


def queue_report(pool: PoolState, now: float) -> list[dict[str, object]]:
    """One entry for each model that requests wait for, the one that has waited longest first. `now`: monotonic seconds.

    `cause` is one of slot, load, memory, protected, other_processes, readings, earlier_loads and unload.
    """
    return [_entry(pool, waiters, now) for waiters in waiting_groups(pool)]


def waiting_groups(pool: PoolState) -> list[list[Waiter]]:
    """Those that wait for the same, the oldest of each group and the group of the oldest first."""
    groups: dict[tuple[str, bool], list[Waiter]] = {}
    for waiter in pool.waiting:
        groups.setdefault((waiter.model.name, waiter.awaited is Awaited.UNLOADED), []).append(waiter)
    return list(groups.values())


def wait_cause(pool: PoolState, waiter: Waiter, now: float) -> str:
    """What it waits for: a `cause` of `queue_report`. `now`: monotonic seconds."""
    return _reason(pool, waiter, now)[0]


def _entry(pool: PoolState, waiters: list[Waiter], now: float) -> dict[str, object]:
    oldest = waiters[0]
    cause, reason = _reason(pool, oldest, now)
    return {
        "model": oldest.model.name,
        "requests": len(waiters),
        "waited_seconds": round(max(0.0, now - oldest.since), 1),
        "cause": cause,
        "reason": reason,
    }


def _reason(pool: PoolState, waiter: Waiter, now: float) -> Reason:
    server = pool.server_of(waiter.model.name)
    if waiter.awaited is Awaited.UNLOADED:
        return "unload", "waits for running requests to finish" if server and server.leases else "waits for it to exit"
    if server is None:
        return _load_reason(pool, waiter, now)
    match server.state:
        case ServerState.STARTING:
            return "load", _loading(pool, server, now)
        case ServerState.DRAINING:
            return "memory" if server.drained_for else "unload", _draining(pool, server)
        case ServerState.STOPPING:
            return "memory", f"waits for its llama-server to exit{_then_load(pool, waiter)}"
    return "slot", _slot_reason(pool, waiter, server, now)


def _loading(pool: PoolState, server: Server, now: float) -> str:
    """By the progress that the engine reports, else by how long the last load took."""
    if server.load_progress is not None:
        return f"loading, {100 * server.load_progress:.0f} %"
    seconds = measured_load_seconds(pool.demands, server.model)
    left = 0.0 if seconds is None else seconds - (now - server.started_at)
    return f"loading, about {duration_text(left)} left" if left >= 1 else "loading"


def _draining(pool: PoolState, server: Server) -> str:
    running = f"waits for {_requests(server)} to finish"
    if server.drained_for:
        return f"{running}: its memory is needed for {_shown(pool, server.drained_for)}"
    return f"{running}, then it is loaded again"


def _requests(server: Server) -> str:
    count = len(server.leases)
    return "1 running request" if count == 1 else f"{count} running requests"


def _shown(pool: PoolState, name: str) -> str:
    """The name of a model that the reader may see: one with a server or a request in this pool."""
    names = {server.model.name for server in pool.servers} | {waiter.model.name for waiter in pool.waiting}
    return name if name in names else NOT_SHOWN


def _slot_reason(pool: PoolState, waiter: Waiter, server: Server, now: float) -> str:
    if is_suspect(pool, waiter, now):
        return "waits for a server to itself, because it was in flight when one ended"
    if server.unresponsive_since is not None:
        return f"its llama-server has not responded for {duration_text(now - server.unresponsive_since)}"
    if server.exclusive_ticket is not None:
        return "waits for a request that runs alone"
    return "waits for a free slot"


# --- a model without a server ------------------------------------------------------------------------------------


def _load_reason(pool: PoolState, waiter: Waiter, now: float) -> Reason:
    decided = pool.evaluation.decided if pool.evaluation else ()
    load = next((each for each in decided if each.model == waiter.model.name), None)
    if load is not None:
        cause, awaited = _decided_reason(pool, load, now)
        return cause, f"waits for {awaited}{_then_load(pool, waiter)}"
    if decided:
        return "earlier_loads", "waits for earlier loads"  # each step decides a few
    if pool.releasing or any(server.state is STOPPING for server in pool.servers):
        return "memory", f"waits for {_released(pool)}{_then_load(pool, waiter)}"
    is_asleep = pool.gpus.state is GpuState.ASLEEP and waiter.uses_gpus
    return "readings", "waits for the GPUs to wake up" if is_asleep else "waits for a reading of the memory"


def _decided_reason(pool: PoolState, load: DecidedLoad, now: float) -> Reason:
    """What a load waits for, after "waits for"."""
    decision = load.decision
    match decision.cause:
        case WaitCause.PROTECTED:
            return "protected", _protected(pool, load, now)
        case WaitCause.BUSY:
            return "memory", f"{_names(pool, decision.awaited)} to finish"
        case WaitCause.LOADING:
            return "memory", f"{_names(pool, decision.awaited)} to finish loading"
        case WaitCause.DRAINING:
            return "memory", f"{_names_in(pool, DRAINING) or NOT_SHOWN} to finish"
        case WaitCause.RESERVED:
            return "earlier_loads", "earlier loads, for which the free memory is reserved"
        case WaitCause.OTHERS:
            missing = "a missing GPU, or for other processes" if pool.gpus.missing else "other processes"
            shorter = f"{decision.shorter_ctx_size:,}"
            return "other_processes", f"{missing} to release memory; if they do not, it gets a context of {shorter}"
    return "memory", _released(pool)


def _protected(pool: PoolState, load: DecidedLoad, now: float) -> str:
    seconds = (load.protected_until or now) - now
    names = _names(pool, load.decision.awaited)
    return f"{names}, in frequent use and protected from eviction for {duration_text(seconds)} at most"


def _released(pool: PoolState) -> str:
    stopping = _names_in(pool, STOPPING)
    return f"{stopping} to exit" if stopping else "memory being released"


def _names(pool: PoolState, ids: tuple[int, ...]) -> str:
    by_id = {server.id: server.model.name for server in pool.servers}
    return ", ".join(sorted({by_id.get(number, NOT_SHOWN) for number in ids}))


def _names_in(pool: PoolState, state: ServerState) -> str:
    return ", ".join(sorted({server.model.name for server in pool.servers if server.state is state}))


def _then_load(pool: PoolState, waiter: Waiter) -> str:
    """How long the load will take then; "" if the model was never loaded since the start."""
    seconds = measured_load_seconds(pool.demands, waiter.model)
    return "" if seconds is None else f", then about {duration_text(seconds)} to load"
