"""Lists of models, under the names that clients read: OpenAI's with the fields of llama.cpp, llama-swap and vLLM, and
Anthropic's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from app.entities.capabilities import Capabilities
from app.entities.launch import LONGEST_AUTO_CTX_TOKENS, LONGEST_AUTO_INPUT_TOKENS, EngineState
from app.entities.model import Model
from app.entities.model_name import is_glob
from app.entities.server import Server, ServerState
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.engines import own_engine_json
from app.use_cases.reporting.model_status import EngineOf, facts_of, model_status
from app.use_cases.reporting.peer_models import CONTEXT_NAMES, ListedPeerModel
from app.use_cases.scheduling.pool_state import PoolState

NO_VIRTUAL_NAMES: Mapping[str, Sequence[Model]] = {}


def model_list(
    models: Iterable[Model],
    pool: PoolState,
    decisions: Sequence[DecisionRecord],
    engine_of: EngineOf,
    with_aliases: bool = False,
    virtual_names: Mapping[str, Sequence[Model]] = NO_VIRTUAL_NAMES,
) -> dict[str, Any]:
    """The body of /v1/models. Includes unloaded models: a request loads them. `engine_of` returns None for a client
    that may not see command lines; `with_aliases`: they are listed as variants are; `virtual_names`: with what they
    stand for."""
    servers = {name: pool.server_of(name) for name in {server.model.name for server in pool.servers}}
    earlier = earlier_contexts(decisions)
    data: list[dict[str, object]] = []
    for model in models:
        entry = _entry(model, servers.get(model.name), pool, earlier.get(model.name, 0), engine_of)
        data += [entry, *(_as_variant(entry, name) for name in other_ids(model, with_aliases))]
    for name, stands_for in virtual_names.items():
        model = most_ready(stands_for, servers)
        entry = _entry(model, servers.get(model.name), pool, earlier.get(model.name, 0), engine_of)
        data.append(as_virtual(entry, name, stands_for))
    return {"object": "list", "data": data}


def as_virtual(entry: Mapping[str, object], name: str, models: Iterable[Model]) -> dict[str, object]:
    """The entry of the model that would answer, as the virtual name's."""
    return {**entry, "id": name, "aliases": [], "any_of": [model.variant or model.name for model in models]}


def most_ready(models: Sequence[Model], servers: Mapping[str, Server | None]) -> Model:
    """One that is loaded, else the first that is not broken."""
    return min(models, key=lambda model: (bool(model.problem), servers.get(model.name) is None))


def model_entry(
    model: Model, pool: PoolState, decisions: Sequence[DecisionRecord], engine_of: EngineOf
) -> dict[str, object]:
    """One model in OpenAI's form, with llama.cpp's `status`; `engine_of` as in `model_list`."""
    entry = _entry(model, pool.server_of(model.name), pool, earlier_contexts(decisions).get(model.name, 0), engine_of)
    return _as_variant(entry, model.variant) if model.variant else entry


def anthropic_list(
    models: Iterable[Model],
    pool: PoolState,
    decisions: Sequence[DecisionRecord],
    with_aliases: bool = False,
    virtual_names: Mapping[str, Sequence[Model]] = NO_VIRTUAL_NAMES,
    at_peers: Iterable[ListedPeerModel] = (),
) -> dict[str, object]:
    """The body of Anthropic's /v1/models: the models that generate text, on one page."""
    earlier, servers = earlier_contexts(decisions), {server.model.name: server for server in pool.servers}
    named = [(name, each) for each in models for name in (each.name, *other_ids(each, with_aliases))]
    named += [(name, most_ready(stands_for, servers)) for name, stands_for in virtual_names.items()]
    data = [
        _anthropic_entry(name, each.created, request_tokens(each, pool.server_of(each.name), earlier.get(each.name, 0)))
        for name, each in named
        if each.capabilities is None or each.capabilities.completion
    ]
    data += [_anthropic_peer_entry(name, listed) for listed in at_peers for name in listed.names]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def anthropic_entry(model: Model, pool: PoolState, decisions: Sequence[DecisionRecord]) -> dict[str, object]:
    """The body of Anthropic's /v1/models/ID."""
    earlier = earlier_contexts(decisions).get(model.name, 0)
    tokens = request_tokens(model, pool.server_of(model.name), earlier)
    return _anthropic_entry(model.variant or model.name, model.created, tokens)


def anthropic_peer_entry(listed: ListedPeerModel) -> dict[str, object]:
    """The same of a peer's model."""
    return _anthropic_peer_entry(listed.model.name, listed)


def _anthropic_peer_entry(name: str, listed: ListedPeerModel) -> dict[str, object]:
    return _anthropic_entry(name, listed.model.created, listed.model.context_tokens)


def other_ids(model: Model, with_aliases: bool) -> list[str]:
    """Globs are none: nobody can choose a model called "claude-*"."""
    return [*(alias for alias in model.aliases if with_aliases and not is_glob(alias)), *model.variants]


def request_tokens(model: Model, server: Server | None, earlier_ctx_size: int = 0) -> int:
    """The context that one request can use, in tokens; 0 if unknown.

    That of the server; of a model that is not loaded, what its settings say, what its last load had
    (`earlier_ctx_size`, 0 without one), or else the most that it may get.
    """
    trained = model.facts.context_tokens if model.facts else 0
    if server is not None and server.state is not ServerState.STOPPING:
        ctx_size = server.placement.ctx_size
    elif model.constraints.has_auto_context:
        generates = model.capabilities is None or model.capabilities.completion
        longest = LONGEST_AUTO_CTX_TOKENS if generates else LONGEST_AUTO_INPUT_TOKENS
        ctx_size = earlier_ctx_size or min(trained, longest)
    else:
        ctx_size = model.launch.options.ctx_size or trained
    options = model.launch.options
    slot = ctx_size // (1 if options.kv_unified else max(1, options.parallel))
    return min(slot, trained) if trained else slot  # llama-server limits a slot to the training context


def earlier_contexts(decisions: Iterable[DecisionRecord]) -> dict[str, int]:
    """The context of each model's last placement, which ctx_size auto chooses again."""
    return {record.model: place.ctx_size for record in decisions if (place := record.decision.placement)}


def _entry(
    model: Model, server: Server | None, pool: PoolState, earlier_ctx_size: int, engine_of: EngineOf
) -> dict[str, object]:
    tokens = request_tokens(model, server, earlier_ctx_size)
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "llama-smart-proxy",
        "aliases": list(model.aliases),
        "source": model.source.value,
        "status": model_status(model, server, pool, facts_of(engine_of(model))),
        **_own_engine(model, engine_of(model)),
        "size": model.size_bytes,
        **(dict.fromkeys(CONTEXT_NAMES, tokens) if tokens else {}),
        "architecture": _modalities(model),
        **_capabilities(model.capabilities),
        "meta": _meta(model, tokens),
    }


def _own_engine(model: Model, state: EngineState | None) -> dict[str, object]:
    """Nothing if it has none, or for a client that may not see paths."""
    own = model.launch.engine
    return {"engine": own_engine_json(own, state)} if own and state else {}


def _as_variant(entry: dict[str, object], variant: str) -> dict[str, object]:
    """`parent` as vLLM has it for LoRA adapters, other names of one loaded model."""
    return entry | {"id": variant, "parent": entry["id"], "aliases": []}


def _modalities(model: Model) -> dict[str, list[str]]:
    """As llama.cpp's router has them; "text" where the header has not been read."""
    can = model.capabilities
    if can == Capabilities():
        return {"input_modalities": [], "output_modalities": []}
    output = "embeddings" if can and can.embedding else "rerank" if can and can.rerank else "text"
    return {"input_modalities": ["text", *sorted(model.media)], "output_modalities": [output]}


def capability_names(capabilities: Capabilities | None) -> list[str]:
    """None while the header has not been read."""
    return [each.name for each in fields(capabilities) if getattr(capabilities, each.name)] if capabilities else []


def _capabilities(capabilities: Capabilities | None) -> dict[str, object]:
    """Nothing while the header has not been read."""
    if capabilities is None:
        return {}
    return {
        "capabilities": capability_names(capabilities),
        "supported_parameters": ["tools", "tool_choice"] if capabilities.tools else [],
    }


def _meta(model: Model, tokens: int) -> dict[str, object]:
    """llama-server's `meta`, by which clients recognize llama.cpp; of an unread header only what is known."""
    context = {"n_ctx": tokens} if tokens else {}
    if (facts := model.facts) is None:
        return {**context, "size": model.size_bytes}
    return {
        **context,
        "n_ctx_train": facts.context_tokens,
        "n_embd": facts.embedding_width,
        "n_vocab": facts.vocabulary,
        "n_params": facts.parameters,
        "size": facts.tensor_bytes,
        "ftype": facts.quantization,
        "architecture": facts.architecture,
    }


def _anthropic_entry(name: str, created: int, tokens: int) -> dict[str, object]:
    limits = {"max_input_tokens": tokens, "max_tokens": tokens} if tokens else {}
    return {"type": "model", "id": name, "display_name": name, "created_at": rfc3339(created), **limits}


def rfc3339(unix_seconds: float) -> str:
    """A time as Anthropic's and Ollama's APIs write it."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat().replace("+00:00", "Z")
