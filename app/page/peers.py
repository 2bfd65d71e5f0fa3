"""The peers on the page: whether each answers. The same as templates/static/peers.js."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.page.text import duration

STATES = {"closed": ("answers", "ok"), "half_open": ("is tried", "warn"), "open": ("does not answer", "bad")}


def peers_view(status: Mapping[str, Any]) -> list[dict[str, str]]:
    return [_row(peer) for peer in status["peers"]]


def _row(peer: Mapping[str, Any]) -> dict[str, str]:
    state, state_class = STATES[peer["breaker"]]
    if peer["breaker"] == "closed" and peer["problem"]:
        state, state_class = "has a problem", "warn"
    return {
        "key": peer["name"],
        "peer": peer["name"],
        "state": state,
        "state_class": state_class,
        "facts": " · ".join(filter(None, _facts(peer))),
        "problem": peer["problem"],
        "problem_class": state_class,
    }


def _facts(peer: Mapping[str, Any]) -> tuple[str, ...]:
    models, requests, seconds = peer["models"], peer["requests"], peer["retry_in_seconds"]
    return (
        "its models are not known yet" if models is None else f"{models} model{'' if models == 1 else 's'}",
        f"{requests} request{'' if requests == 1 else 's'}" if requests else "",
        f"tried in {duration(seconds)}" if seconds else "",
    )
