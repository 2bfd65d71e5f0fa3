"""The bodies of /health, /v1/models, /props and the model details of the status page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.entities.configuration import ConfigurationState
from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineFacts, EngineState, OwnEngine
from app.entities.model import Model
from app.entities.placement import CPU
from app.entities.server import Server, ServerState
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.decisions import context_json, estimate_json, last_decision, placement_json
from app.use_cases.reporting.engines import own_engine_json, own_engine_name
from app.use_cases.reporting.gpu_report import GB, gpu_pool_status
from app.use_cases.scheduling.pool_state import PoolState

# As the original service names it; else "running".
OLD_STATUS = {ServerState.STOPPED: "stopped", ServerState.FAILED: "error"}
ON_CPU = (
    "on the CPU, because no GPU could be used when it was loaded; "
    "it moves to a GPU once one has room for it and it is idle"
)


def health(
    pool: PoolState,
    gpus: GpuSnapshot,
    problems: Sequence[str],
    configuration: ConfigurationState,
    engine: EngineFacts | None,
    engine_problem: str,
    own_engines: Mapping[OwnEngine, EngineState] | None,
    version: str,
    now: float,
) -> dict[str, object]:
    """The body of /health; `reasons` lists what is wrong, `problems` of it. `own_engines`: those of models; None for a
    reader that may not see paths. `now` in monotonic seconds."""
    gpus = gpus.as_of(now)
    reasons = degraded_reasons(pool, gpus, problems, configuration, engine_problem, now)
    return {
        "status": "draining" if pool.draining else "ok",
        "degraded": bool(reasons),
        "reasons": reasons,
        "version": version,
        "engine": {"kind": engine.kind, "version": engine.version} if engine else None,
        "model_engines": [own_engine_json(*each) for each in (own_engines or {}).items() if each[1].use.models],
        "configuration": {
            "loaded_at": round(configuration.loaded_at, 3),
            "errors": list(configuration.errors),
            "needs_restart": list(configuration.needs_restart),
        },
        "servers": [
            _server(s, now) | {"engine": own_engine_name(s.model, shows_paths=own_engines is not None)}
            for s in pool.servers
        ],
        "waiting": len(pool.waiting),
        "gpu_pool_status": gpu_pool_status(gpus, pool.servers, pool.limits.gpu_limits)
        | {"age_seconds": round(now - gpus.at, 1) if gpus.gpus else None},
    }


def degraded_reasons(
    pool: PoolState,
    gpus: GpuSnapshot,
    problems: Sequence[str],
    configuration: ConfigurationState,
    engine_problem: str,
    now: float,
) -> list[str]:
    """What is wrong, one sentence each. `gpus`: as of `now`, monotonic seconds; `problems`: of the models' own engines,
    and of the pinned models."""
    found = ((server.model.name, server_problem(server, gpus, now)) for server in pool.servers)
    of_servers = dict.fromkeys(f"{name}: {problem}" for name, problem in found if problem)
    reasons = [engine_problem, *gpus.problems, *problems, *of_servers, configuration.problem]
    return [reason for reason in reasons if reason]


def server_problem(server: Server, gpus: GpuSnapshot, now: float) -> str:
    """What is wrong with a server; "" if nothing is. `gpus`: as of `now`, monotonic seconds."""
    if server.unresponsive_since is not None:
        return f"its llama-server (server {server.id}) has not responded for {now - server.unresponsive_since:.0f} s"
    gpus = gpus.seen_by(server.model.launch.engine)
    is_gpu_expected = gpus.has_usable_gpu or (gpus.problems and not gpus.engine_problem)
    return ON_CPU if server.gpu_problem and is_gpu_expected else ""


def _server(server: Server, now: float) -> dict[str, object]:
    return {
        "id": str(server.id),
        "host": "127.0.0.1",
        "port": server.port,
        "model_id": server.model.name,
        "status": OLD_STATUS.get(server.state, "running"),
        "state": server.state,
        "process": server.pid,
        "gpu_assignment": _assignment(server),
        "device": server.placement.device,
        "requests": len(server.leases),
        "slots": server.slots,
        **context_json(server.placement),
        "expected_bytes": server.expected_bytes,
        "booked_bytes": dict(server.booked),
        "reported_bytes": server.reported_bytes,
        "idle_seconds": round(max(0.0, now - server.last_used), 1) if server.is_idle else 0.0,
    }


def _assignment(server: Server) -> dict[str, object] | None:
    """GPU assignment in the original service's form, in GiB; None on the CPU."""
    placement = server.placement
    if placement.is_on_cpu:
        return None
    booked, measured = (
        None if each is None else sum(size for device, size in each.items() if device != CPU) / GB
        for each in (server.booked, server.reported if server.is_up else None)
    )
    split = placement.tensor_split
    return {
        "gpu_ids": list(placement.indices),
        "tensor_splits": [each / sum(split) for each in split],
        "estimated_vram_required": booked,
        "actual_vram_used": measured,
        "n_gpu_layers": placement.n_gpu_layers,
    }


def model_placement(model: Model, pool: PoolState, decisions: Iterable[DecisionRecord]) -> dict[str, object]:
    """Where the model is loaded, the estimate it was placed by, and the last decision about it."""
    server = pool.server_of(model.name)
    return {
        "placement": placement_json(server.placement) if server else None,
        "estimate": estimate_json(server.placement) if server else None,
        "decision": last_decision(decisions, model.name),
    }


def router_props(engine: EngineFacts | None, max_loaded: int | None) -> dict[str, object]:
    """The body of /props as llama.cpp's router (b11434) answers: its clients read `role`. max_instances 0: no limit."""
    return {
        "role": "router",
        "max_instances": max_loaded or 0,
        "models_autoload": True,
        "model_alias": "llama-smart-proxy",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "build_info": engine.version if engine else "none",
    }
