"""Port of the peers, whose models are served here."""

from __future__ import annotations

from typing import Protocol

from app.entities.peer import PeerModel, PeerStatus
from app.ports.clients import WatchedClient
from app.ports.relay import EngineAnswer, UpstreamRequest
from app.use_cases.peers.names import PeerNames


class Peers(Protocol):
    """The configured peers (workers.peers.peer_group.PeerGroup)."""

    @property
    def statuses(self) -> tuple[PeerStatus, ...]:
        """What is known of each now, in the order of the configuration."""

    @property
    def names(self) -> PeerNames:
        """Their models by name."""

    def send(self, model: PeerModel, request: UpstreamRequest, client: WatchedClient) -> EngineAnswer:
        """Send a request for the model to its peer, with that peer's key, and wait for the head of the answer. The
        request's target is below the base URL. Raises the ProxyError that says why there is none; PeerUnavailable if
        the peer has not read the request."""
