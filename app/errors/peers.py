"""Errors of peers: one does not answer, or a request would go in a circle."""

from __future__ import annotations

import math

from app.errors.base import ProxyError


class PeerUnavailable(ProxyError):
    """The peer of the model does not answer; the request was not sent, or not read."""

    status, code = 503, "peer_unavailable"

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_after = min(60, max(1, math.ceil(retry_seconds)))


class PeerLoop(ProxyError):
    """The request came from a peer, and its model is another peer's: a request is passed on once."""

    status, type, code = 508, "invalid_request_error", "peer_loop"
