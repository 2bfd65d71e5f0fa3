"""Peers for tests that start no service."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from app.use_cases.peers.names import PeerNames, peer_names

NO_PEERS: Any = SimpleNamespace(statuses=(), names=PeerNames())


def scripted_peers(*statuses: Any) -> Any:
    """Peers with these statuses, to which nothing is sent."""
    return SimpleNamespace(statuses=statuses, names=peer_names(model for each in statuses for model in each.models))
