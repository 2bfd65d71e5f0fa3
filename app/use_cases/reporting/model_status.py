"""A model's state in the forms of llama.cpp's router (`status`, /models/sse) and of llama-swap (/running)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from app.entities.frozen import replace
from app.entities.launch import EngineFacts, EngineState
from app.entities.model import Model
from app.entities.server import Server, ServerState
from app.use_cases.launch.capabilities import launch_as_started
from app.use_cases.launch.command_line import ANY_PORT, launch_on, launch_plan
from app.use_cases.reporting.decisions import context_json
from app.use_cases.scheduling.pool_state import PoolState

# As llama.cpp's router names it; else "unloaded".
MODEL_STATUS = {
    ServerState.STARTING: "loading",
    ServerState.READY: "loaded",
    ServerState.DRAINING: "loaded",
}
EngineOf = Callable[[Model], EngineState | None]  # the engine of a model; None: the reader may not see it
_EVENT_FIELDS = ("progress", "failed", "exit_code")  # in an event, of a status
STAGE = "text_model"  # the router names what is loading; our progress is that of all files


def model_status(model: Model, server: Server | None, pool: PoolState, engine: EngineFacts | None) -> dict[str, object]:
    """`status` in a list: `value`; `failed` with a message if the last load failed or the file cannot be served.

    `engine`: None leaves out the arguments of its llama-server.
    """
    value = MODEL_STATUS.get(server.state, "unloaded") if server else "unloaded"
    is_up = server is not None and server.state in MODEL_STATUS
    context = context_json(server.placement) if server and is_up else {}
    arguments: dict[str, object] = {"args": list(command_of(server, engine))} if server and is_up and engine else {}
    status: dict[str, object] = {"value": value}
    return status | arguments | context | _instances(model, pool) | _progress(server) | _failure(model, pool)


def facts_of(state: EngineState | None) -> EngineFacts | None:
    return state.facts if state else None


def status_events(before: PoolState, after: PoolState) -> list[dict[str, object]]:
    """The events of /models/sse about models whose status has changed between two states."""
    models = {server.model.name: server.model for server in (*before.servers, *after.servers)}
    changed = ((name, _event_data(model, before), _event_data(model, after)) for name, model in models.items())
    return [{"model": name, "event": "model_status", "data": new} for name, old, new in changed if new != old]


def _event_data(model: Model, pool: PoolState) -> dict[str, object]:
    status = model_status(model, pool.server_of(model.name), pool, None)
    return {"status": status["value"]} | {key: status[key] for key in _EVENT_FIELDS if key in status}


def running(servers: Iterable[Server], engine_of: EngineOf, ttl_seconds: float) -> dict[str, object]:
    """The body of /running. `engine_of`: None leaves out command lines and addresses; `ttl_seconds`: of models without
    their own."""
    return {"running": [_running(server, facts_of(engine_of(server.model)), ttl_seconds) for server in servers]}


def _running(server: Server, engine: EngineFacts | None, ttl_seconds: float) -> dict[str, object]:
    ttl = server.model.ttl_seconds
    return {
        "model": server.model.name,
        "state": "ready" if server.is_up else server.state,  # llama-swap has no state of its own for a drain
        "cmd": shlex.join(command_of(server, engine)) if engine else "",
        "proxy": f"http://127.0.0.1:{server.port}" if engine and server.port else "",
        "ttl": round(ttl_seconds if ttl is None else ttl),
        "name": "",
        "description": "",
    }


def command_of(server: Server, engine: EngineFacts) -> tuple[str, ...]:
    """The command line with which `engine` is started for this server; its key is not part of it."""
    model = server.model
    launch = launch_as_started(model.launch, model.facts) if model.facts else model.launch
    model = replace(model, launch=launch_on(launch, server.placement))
    return launch_plan(model, engine, {}, api_key="", port=server.port or ANY_PORT).argv


def _failure(model: Model, pool: PoolState) -> dict[str, object]:
    failure = pool.failures.get(model.name)
    message = model.problem or (failure.detail if failure else "")
    if not message:
        return {}
    exit_code = {"exit_code": failure.exit_code} if failure and failure.exit_code is not None else {}
    return {"failed": True, "message": message} | exit_code


def _instances(model: Model, pool: PoolState) -> dict[str, object]:
    """Number of servers that are loading or ready, for a model that may have replicas."""
    if model.replicas.max == 1:
        return {}
    return {"instances": sum(each.state in MODEL_STATUS for each in pool.servers_of(model.name))}


def _progress(server: Server | None) -> dict[str, object]:
    if server is None or server.state is not ServerState.STARTING or server.load_progress is None:
        return {}
    return {"progress": {"stages": [STAGE], "current": STAGE, "value": round(server.load_progress, 3)}}
