"""Refusal: why a request gets no server, as a value. app/errors.py makes the HTTP error from it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.placement import nothing


class Reason(enum.StrEnum):
    """Names follow the error codes of the HTTP API where there is one."""

    DRAINING = "draining"
    OVERLOADED = "overloaded"
    QUEUE_FULL = "queue_full"
    WAIT_TIMEOUT = "wait_timeout"
    INSUFFICIENT_MEMORY = "insufficient_vram"
    DOES_NOT_FIT = "model_does_not_fit"
    NO_GPU = "no_gpu"
    LOAD_FAILED = "model_load_failed"
    UNLOADED = "model_unloaded"
    LOAD_TIMEOUT = "load_timeout"
    SPAWN_FAILED = "spawn_failed"
    CLIENT_DISCONNECTED = "client_left"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request's no, with the numbers that decided it."""

    reason: Reason
    model: str
    detail: str = ""  # a sentence, or the engine's last lines
    needed_bytes: int = 0
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # by device: GPU's UUID, or CPU
    advise: Callable[[], str] = field(default=nothing, compare=False, repr=False)
    retry_after_seconds: float | None = None  # when it makes sense to ask again, where that is known

    @property
    def nearest(self) -> str:
        """The setting next to what was asked that would fit. Worked out when somebody wants to know."""
        return self.advise()
