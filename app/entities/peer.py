"""Peers: other addresses whose models are served here, and what is known of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

HOPS_HEADER = "X-Llama-Smart-Proxy-Hops"  # of a request that a service like this one has passed on


@dataclass(frozen=True, slots=True)
class Peer:
    """One entry of `peers`: where it is, what it is sent as a key, and which of its models are served."""

    name: str
    host_name: str
    port: int
    path: str = "/v1"  # what comes before /chat/completions
    is_tls: bool = False
    key_variable: str = ""  # of the environment
    key_file: str = ""
    models: tuple[str, ...] | None = None  # None: those that it lists

    @property
    def host(self) -> str:
        """As in the Host header."""
        name = f"[{self.host_name}]" if ":" in self.host_name else self.host_name
        return name if self.port == (443 if self.is_tls else 80) else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerModel:
    """A model of a peer."""

    peer: str
    id: str  # the peer's name for it
    created: int = 0  # Unix seconds
    context_tokens: int = 0  # 0: not known

    @property
    def name(self) -> str:
        """The name that it has here in any case."""
        return f"{self.peer}/{self.id}"


class BreakerState(enum.StrEnum):
    """Whether a peer is sent requests."""

    CLOSED = "closed"
    OPEN = "open"  # the last ones failed: no request until the next attempt is due
    HALF_OPEN = "half_open"  # the next request is the attempt


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What is known of a peer at one moment."""

    name: str
    models: tuple[PeerModel, ...] = ()
    is_listed: bool = True  # its list of models is known
    breaker: BreakerState = BreakerState.CLOSED
    problem: str = ""  # what went wrong last; "" since something went well
    retry_seconds: float = 0.0  # until the next attempt, while the breaker is open
    requests: int = 0  # that it is working on
    failures: int = 0  # since the start of the service

    @property
    def is_available(self) -> bool:
        return self.breaker is not BreakerState.OPEN
