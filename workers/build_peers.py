"""Builds the peers from the settings."""

from __future__ import annotations

from app.entities.peer import HOPS_HEADER
from app.settings.schema import Settings
from workers.folders import version
from workers.peers.peer_group import PeerGroup
from workers.peers.peer_link import Patience
from workers.relay.stream_mover import StreamMover


def build_peers(settings: Settings, mover: StreamMover) -> PeerGroup:
    """`mover`: of the relay; it moves the answers of peers, too."""
    headers = {HOPS_HEADER: "1", "User-Agent": f"llama-smart-proxy/{version()}", "Accept": "application/json"}
    return PeerGroup(settings.peer_list(), patience(settings), mover, headers)


def patience(settings: Settings) -> Patience:
    """How long peers may take to answer."""
    return Patience(settings.upstream.first_byte_seconds, settings.upstream.stall_seconds)
