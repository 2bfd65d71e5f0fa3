"""Models in the form of Ollama's lists: /api/tags, /api/ps and /api/show (api/types.go at 0013818)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from app.entities.capabilities import Capabilities
from app.entities.gguf import Value
from app.entities.model import LATEST, Model
from app.entities.placement import CPU
from app.entities.server import Server, ServerState
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.model_list import (
    NO_VIRTUAL_NAMES,
    earlier_contexts,
    most_ready,
    other_ids,
    request_tokens,
    rfc3339,
)
from app.use_cases.reporting.peer_models import ListedPeerModel
from app.use_cases.scheduling.idle import idle_deadline
from app.use_cases.scheduling.pool_state import PoolState

FOREVER_SECONDS = 100 * 365 * 86400.0  # Ollama's clients expect a time even for a model that is kept
LONG_ARRAY = 5  # longer ones are left empty, as in Ollama
PARAMETER_WIDTH = 30  # of a name in `parameters`
HIDDEN_KEYS = ("general.name", "tokenizer.chat_template")
# Ollama's names of what a model can do.
CAPABILITIES = {
    "completion": "completion",
    "tools": "tools",
    "infill": "insert",
    "vision": "vision",
    "audio": "audio",
    "embedding": "embedding",
    "thinking": "thinking",
}


def tagged(name: str) -> str:
    """The name as Ollama's clients look it up in the list: they add the tag to a name that has none."""
    return name if ":" in name else name + LATEST


def tag_list(
    models: Iterable[Model],
    servers: Iterable[Server] = (),
    with_aliases: bool = False,
    virtual_names: Mapping[str, Sequence[Model]] = NO_VIRTUAL_NAMES,
    at_peers: Iterable[ListedPeerModel] = (),
) -> dict[str, object]:
    """The body of /api/tags: the models that can be served, the newest first, each with the names that lists have; then
    virtual names, and the models of peers that answer."""
    listed = sorted((model for model in models if not model.problem), key=lambda model: -model.created)
    named = [replace(model, variant=name) for model in listed for name in ("", *other_ids(model, with_aliases))]
    loaded = {server.model.name: server for server in servers}
    named += [replace(most_ready(stands_for, loaded), variant=name) for name, stands_for in virtual_names.items()]
    others = [_peer_entry(name, each) for each in at_peers if not each.problem for name in each.names]
    return {"models": [_entry(model) | _file(model) for model in named] + others}


def process_list(pool: PoolState, now: float, unix_now: float) -> dict[str, object]:
    """The body of /api/ps: the models that are loaded or loading. `now` in monotonic seconds."""
    servers: dict[str, list[Server]] = {}
    for server in pool.servers:
        if server.state is not ServerState.STOPPING:
            servers.setdefault(server.model.name, []).append(server)
    return {"models": [_process(pool, each, now, unix_now) for each in servers.values()]}


def model_details(
    model: Model, pool: PoolState, decisions: Sequence[DecisionRecord], metadata: Mapping[str, Value]
) -> dict[str, object]:
    """The body of /api/show. `metadata`: of its header."""
    template = metadata.get("tokenizer.chat_template")
    return {
        "modelfile": f"FROM {model.name}\n",
        "parameters": _parameters(model, pool, decisions),
        "template": template if isinstance(template, str) else "",
        "details": _details(model),
        "model_info": _model_info(model, metadata),
        "capabilities": _capabilities(model.capabilities or Capabilities()),
        "modified_at": rfc3339(model.created),
    }


def peer_model_details(listed: ListedPeerModel) -> dict[str, object]:
    """The same for a peer's model, of which nothing but its context is known."""
    tokens = listed.model.context_tokens
    return {
        "modelfile": f"FROM {listed.model.name}\n",
        "parameters": f"{'num_ctx':<{PARAMETER_WIDTH}} {tokens}" if tokens else "",
        "template": "",
        "details": _NO_DETAILS,
        "model_info": {},
        "capabilities": ["completion"],
        "modified_at": rfc3339(listed.model.created),
    }


def _peer_entry(name: str, listed: ListedPeerModel) -> dict[str, object]:
    """`remote_model` and `remote_host` as Ollama has them for models that it runs elsewhere."""
    model = listed.model
    remote = {"remote_model": model.id, "remote_host": model.peer}
    entry = {"name": tagged(name), "model": tagged(name), **remote, "digest": _digest(model.name)}
    return entry | {"details": _NO_DETAILS, "modified_at": rfc3339(model.created), "size": 0}


_NO_DETAILS: dict[str, object] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": None,
    "parameter_size": "",
    "quantization_level": "",
}


def _digest(stamp: str) -> str:
    return hashlib.sha256(stamp.encode(errors="surrogateescape")).hexdigest()


def _entry(model: Model) -> dict[str, object]:
    name, stamp = tagged(model.variant or model.name), f"{model.path}\0{model.size_bytes}\0{model.created}"
    return {"name": name, "model": name, "digest": _digest(stamp), "details": _details(model)}


def _file(model: Model) -> dict[str, object]:
    return {"modified_at": rfc3339(model.created), "size": model.size_bytes}


def _process(pool: PoolState, servers: list[Server], now: float, unix_now: float) -> dict[str, object]:
    """One model; `servers`: its replicas."""
    sizes = [size for server in servers for size in (server.reported or server.booked).items()]
    expires_in = max(_expires_in(pool, server, now) for server in servers)
    return _entry(replace(servers[0].model, variant="")) | {
        "size": sum(size for _, size in sizes),
        "size_vram": sum(size for device, size in sizes if device != CPU),
        "expires_at": rfc3339(unix_now + min(expires_in, FOREVER_SECONDS)),
        "context_length": request_tokens(servers[0].model, servers[0]),
    }


def _expires_in(pool: PoolState, server: Server, now: float) -> float:
    """Seconds until it is stopped if no request follows; of a busy one, if its requests ended now."""
    since = server.last_used if server.is_idle else now
    return max(0.0, since - now + idle_deadline(pool, server) - server.last_used)


def _details(model: Model) -> dict[str, object]:
    facts = model.facts
    architecture = facts.architecture if facts else ""
    return {
        "parent_model": tagged(model.name) if model.variant else "",
        "format": "gguf",
        "family": architecture,
        "families": [architecture] if architecture else None,
        "parameter_size": _human_number(facts.parameters) if facts else "",
        "quantization_level": facts.quantization if facts else "",
    }


def _human_number(count: int) -> str:
    """As Ollama writes it (format.HumanNumber): 8.0B, 136.73M."""
    for size, suffix, digits in ((1e12, "T", 1), (1e9, "B", 1), (1e6, "M", 2), (1e3, "K", 2)):
        if count >= size:
            return f"{count / size:.{digits}f}{suffix}"
    return str(count)


def _capabilities(capabilities: Capabilities) -> list[str]:
    return [name for field, name in CAPABILITIES.items() if getattr(capabilities, field)]


def _parameters(model: Model, pool: PoolState, decisions: Sequence[DecisionRecord]) -> str:
    """The context that one request can have, as a parameter of a Modelfile: clients set their limits by it.

    Nothing for a context that is chosen when the model is loaded, and was not chosen before.
    """
    server, earlier = pool.server_of(model.name), earlier_contexts(decisions).get(model.name, 0)
    is_loaded = server is not None and server.state is not ServerState.STOPPING
    if model.constraints.has_auto_context and not is_loaded and not earlier:
        return ""
    return f"{'num_ctx':<{PARAMETER_WIDTH}} {request_tokens(model, server, earlier)}"


def _model_info(model: Model, metadata: Mapping[str, Value]) -> dict[str, object]:
    """The header's metadata. Numbers that JSON cannot express are left out."""
    found: dict[str, object] = {"general.parameter_count": model.facts.parameters} if model.facts else {}
    for key, value in metadata.items():
        if key in HIDDEN_KEYS or (isinstance(value, float) and not math.isfinite(value)):
            continue
        found[key] = ([] if len(value) > LONG_ARRAY else list(value)) if isinstance(value, tuple) else value
    return found
