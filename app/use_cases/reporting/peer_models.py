"""Peers and their models in the reports: lists of models, plans, and the account of the service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from app.entities.peer import PeerModel, PeerStatus

CONTEXT_NAMES = ("context_length", "max_context_length", "max_model_len")  # OpenRouter, LM Studio, vLLM


@dataclass(frozen=True, slots=True)
class ListedPeerModel:
    """A model of a peer with the names that a list has for it."""

    model: PeerModel
    own_name: str = ""  # if it is listed by that, too
    problem: str = ""  # why it cannot be used now

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model.name, self.own_name) if self.own_name else (self.model.name,)


def listed_peer_models(statuses: Sequence[PeerStatus], taken: Set[str]) -> list[ListedPeerModel]:
    """The models of these peers. `taken`: names that mean a model of this machine.

    Of several models with one name, the first of a peer that answers has it, else the first.
    """
    owners: dict[str, PeerModel] = {}
    for status in sorted(statuses, key=lambda status: not status.is_available):
        for model in status.models:
            owners.setdefault(model.id, model)
    return [
        ListedPeerModel(model, _own_name(model, owners, taken), problem_text(status))
        for status in statuses
        for model in status.models
    ]


def _own_name(model: PeerModel, owners: dict[str, PeerModel], taken: Set[str]) -> str:
    return model.id if owners[model.id] is model and model.id not in taken else ""


def problem_text(status: PeerStatus) -> str:
    """Why its models cannot be used now; "" if they can."""
    return "" if status.is_available else f"peer {status.name} does not answer: {status.problem}"


def model_entries(listed: ListedPeerModel) -> list[dict[str, object]]:
    """Its entries in OpenAI's list, with llama.cpp's `status`: the second is by its own name.

    A model that can be used is `loaded`: nobody has to load it here, and llama.cpp's clients would.
    """
    model = listed.model
    context = dict.fromkeys(CONTEXT_NAMES, model.context_tokens) if model.context_tokens else {}
    entry: dict[str, object] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.peer,
        "aliases": [],
        "source": "peer",
        "peer": model.peer,
        "status": _status(listed),
        **context,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "meta": {"n_ctx": model.context_tokens} if model.context_tokens else {},
    }
    return [entry | ({"id": name, "parent": model.name} if name != model.name else {}) for name in listed.names]


def _status(listed: ListedPeerModel) -> dict[str, object]:
    if listed.problem:
        return {"value": "unloaded", "failed": True, "message": listed.problem}
    return {"value": "loaded"}


def plan_entries(listed: Iterable[ListedPeerModel]) -> list[dict[str, object]]:
    """As in GET /plan: nothing is placed here."""
    return [_plan_entry(each) for each in listed]


def _plan_entry(listed: ListedPeerModel) -> dict[str, object]:
    model = listed.model
    return {
        "id": model.name,
        "aliases": [listed.own_name] if listed.own_name else [],
        "source": "peer",
        "quant": "",
        "size_bytes": None,
        "ctx_size": model.context_tokens or None,
        "capabilities": [],
        "state": "peer",
        "problem": listed.problem,
        "pinned": False,
        "outcome": None,
        "text": f"at peer {model.peer}",
        "needed_bytes": None,
        "evict": [],
        "device": None,
    }


def peers_report(statuses: Iterable[PeerStatus]) -> list[dict[str, object]]:
    """`peers` in GET /health and GET /status."""
    return [
        {
            "name": status.name,
            "breaker": status.breaker.value,
            "problem": status.problem,
            "retry_in_seconds": round(status.retry_seconds, 1),
            "models": len(status.models) if status.is_listed else None,
            "requests": status.requests,
            "failures": status.failures,
        }
        for status in statuses
    ]
