"""Model: what a client may ask for by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.entities.launch import LaunchSettings
from app.entities.placement import PlacementConstraints


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many servers a model has: `min` as long as it is loaded, where there is room for them, and never more than
    `max`."""

    min: int = 1
    max: int = 1


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue. A client's `model` is only ever compared with names."""

    name: str
    path: str  # the GGUF file llama-server opens (the first part of a split one); never from a client
    size_bytes: int  # of all its parts, its projector included
    created: int  # the file's modification time, Unix seconds: /v1/models shows it
    launch: LaunchSettings
    aliases: tuple[str, ...] = ()  # other names it is listed under
    problem: str = ""  # why it cannot be served, as far as its files show; empty for a good one
    ttl_seconds: float | None = None  # its own idle time; None: the service's
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)  # about the GPUs it goes to
    pin: bool = False  # once loaded it stays
    priority: int = 0  # the higher, the sooner loaded and the later stopped
    keep_kv_cache: bool = False  # what its server computed outlives it, on disk
    replicas: Replicas = field(default_factory=Replicas)

    def is_served_as(self, other: Model) -> bool:
        """Whether a llama-server started for the one serves the other: the same file, unchanged, started alike."""
        return (self.path, self.size_bytes, self.created, self.launch, self.constraints) == (
            other.path,
            other.size_bytes,
            other.created,
            other.launch,
            other.constraints,
        )
