"""Refusal: why a request gets no server, as a value. app/errors/refusal.py turns it into an HTTP error."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.placement import no_suggestion


class Reason(enum.StrEnum):
    """Values are the HTTP API's error codes where one exists."""

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
    CRASHES_ENGINE = "request_crashes_engine"
    CLIENT_DISCONNECTED = "client_left"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one request was rejected, with the numbers behind it."""

    reason: Reason
    model: str
    detail: str = ""  # a sentence, or the engine's last lines
    needed_bytes: int = 0
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # by GPU's UUID, or CPU
    suggest: Callable[[], str] = field(default=no_suggestion, compare=False, repr=False)
    retry_after_seconds: float | None = None  # when a retry makes sense; None: unknown

    @property
    def suggestion(self) -> str:
        """The closest setting that would fit, or "". Computed on demand."""
        return self.suggest()
