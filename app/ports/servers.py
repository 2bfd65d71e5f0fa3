"""Ports of the llama-servers and their slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from app.entities.model import Model
from app.ports.clients import WatchedClient
from app.use_cases.scheduling.events import Ending


@dataclass(frozen=True, slots=True)
class Address:
    """Where a llama-server answers, and the API key it requires."""

    server: int
    model: str
    port: int
    api_key: str
    context_tokens: int = 0  # that one request may use; 0: as many as the model was trained with
    device: str = "cpu"  # "cuda:0,1" or "vulkan:0,1": its GPUs, by NVML index

    @property
    def host(self) -> str:
        """As in the Host header."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Lease:
    """One request's slot on a server, until its SlotRequest ends."""

    address: Address
    waited_seconds: float


class SlotRequest(Protocol):
    """One request's wait for a slot, then its slot (workers.pool.pending_lease.PendingLease)."""

    def wait(self, seconds: float | None = None) -> Lease | None:
        """The slot; None if there was none within `seconds`. Raises the ProxyError of a rejected request."""

    def end(self, ending: Ending, keep_alive_seconds: float | None = None) -> None:
        """Cancel the wait or release the slot. `keep_alive_seconds`: idle time before the model is unloaded."""


class ServerPool(Protocol):
    """The llama-servers and their scheduler (workers.pool.pool.Pool)."""

    def acquire(
        self,
        model: Model,
        max_wait_seconds: float,
        client: WatchedClient,
        context_tokens: int | None = None,
        conversation: int | None = None,
        key: str = "",
        request_hash: str = "",
        may_load: bool = True,
    ) -> SlotRequest:
        """Request a slot, which loads the model if necessary and it `may_load`. Raises the ProxyError that makes
        waiting pointless.

        `key`: name of the client's API key; keys take turns where requests wait. `request_hash`: of all that the engine
        gets, and the key; "" for a request that is never blamed for the end of a server."""

    def load(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Load the model; returns once its llama-server is starting. Raises the ProxyError of a rejected load."""

    def unload(self, model: Model, max_wait_seconds: float, client: WatchedClient, grace_seconds: float = inf) -> None:
        """Unload the model after its running requests, which end with ModelUnloaded after `grace_seconds`; returns once
        its processes have ended."""

    def by_availability(self, models: Sequence[Model]) -> list[Model]:
        """The models of a virtual name, the one that should answer first. Loads nothing and waits for nothing."""

    def address(self, model: Model) -> Address | None:
        """Where the model answers now; None if it is not loaded. Takes no slot."""
