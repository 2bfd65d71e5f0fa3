"""The llama-servers in GET /status: what each does, how fast, and when it is unloaded."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from app.entities.engine_load import IDLE, UNKNOWN, Drafts, EngineLoad
from app.entities.load import LoadReport
from app.entities.server import Server, ServerState
from app.use_cases.reporting.engines import own_engine_name
from app.use_cases.reporting.report import server_problem
from app.use_cases.scheduling.idle import idle_deadline
from app.use_cases.scheduling.pin_orders import is_pinned
from app.use_cases.scheduling.pool_state import PoolState


def servers_status(
    pool: PoolState,
    loads: Mapping[int, EngineLoad],
    drafts: Mapping[int, Drafts],
    now: float,
    at: float,
    shows_paths: bool,
) -> list[dict[str, object]]:
    """The servers of `pool`, oldest first. `loads`: of those that are busy; `now`: monotonic seconds; `at`: the same
    moment in Unix seconds; `shows_paths`: of models' own engines."""
    gpus = pool.gpus.as_of(now)
    return [
        _server(server, loads.get(server.id, UNKNOWN), pool, now, at)
        | {"drafts": _drafts(drafts.get(server.id))}
        | {"engine": own_engine_name(server.model, shows_paths), "problem": server_problem(server, gpus, now)}
        for server in pool.servers
    ]


def _server(server: Server, load: EngineLoad, pool: PoolState, now: float, at: float) -> dict[str, object]:
    placement, load = server.placement, IDLE if server.is_idle else load
    return {
        "id": str(server.id),
        "model": server.model.name,
        "state": server.state,
        "device": placement.device,
        "gpus": list(placement.indices),
        "pid": server.pid,
        "progress": server.load_progress if server.state is ServerState.STARTING else None,
        "requests": len(server.leases),
        "slots": server.slots,
        "slots_busy": server.slots_busy,
        "ctx_size": placement.ctx_size,
        "full_ctx_size": placement.full_ctx_size or None,
        "context_used_tokens": load.context_tokens,
        "prompt_tokens_per_second": load.prompt_tokens_per_second,
        "tokens_per_second": load.tokens_per_second,
        "idle_seconds": round(max(0.0, now - server.last_used), 1) if server.is_idle else 0.0,
        "unloads_in_seconds": _unloads_in_seconds(pool, server, now),
        "estimated_bytes": placement.estimated_bytes,
        "measured_bytes": server.reported_bytes if server.is_up else None,
        "prompt_cache_bytes": placement.prompt_cache_bytes,
        "pinned": is_pinned(pool.pin_orders, server.model),
        "started_at": round(at - (now - server.started_at), 3),
        "load": _load(server.load) if server.load else None,
        "load_seconds": None if server.ready_at is None else round(server.ready_at - server.started_at, 1),
    }


def _drafts(drafts: Drafts | None) -> dict[str, object] | None:
    if drafts is None:
        return None
    return {
        "tokens": drafts.tokens,
        "accepted_tokens": drafts.accepted,
        "accepted_percent": round(100 * drafts.acceptance),
    }


def _load(load: LoadReport) -> dict[str, object]:
    return {
        "mode": load.mode,
        "from": load.source or None,
        "size_bytes": load.size_bytes,
        "bytes_per_second": round(load.bytes_per_second),
        "text": load.text,
    }


def _unloads_in_seconds(pool: PoolState, server: Server, now: float) -> float | None:
    """None: it is in use, or stays."""
    deadline = idle_deadline(pool, server) if server.is_idle else float("inf")
    return round(max(0.0, deadline - now), 1) if isfinite(deadline) else None
