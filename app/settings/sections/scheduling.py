"""Settings of the scheduler: limits on waiting requests, and when models are unloaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field

from app.settings.sections.server import ServerSettings
from app.settings.values import Memory, Section


def _check_excess(size: ByteSize) -> ByteSize:
    if not size:
        raise ValueError("0 would end every llama-server that takes a little more than was booked; null: no limit")
    return size


class SchedulingSettings(Section):
    """Limits on waiting requests, and when models are unloaded."""

    max_loaded: int | None = Field(
        None, ge=1, description="Largest number of llama-servers, replicas included. null: limited by memory only."
    )
    max_waiting: int = Field(256, ge=1, description="Largest number of waiting requests, all models together.")
    max_waiting_per_model: int = Field(128, ge=1, description="Largest number of waiting requests for one model.")
    max_wait_seconds: float = Field(300.0, gt=0, description="How long a request may wait for a slot.")
    min_residency_seconds: float = Field(
        20.0,
        ge=0,
        description=(
            "A model loaded or used more recently than this is evicted only when other requests have waited "
            "a long time. 0: it can be evicted as soon as it is idle."
        ),
    )
    ttl_seconds: float = Field(
        900.0, gt=0, description="Idle time after which a model is unloaded; 31536000 is a year."
    )
    stall_timeout_seconds: float = Field(
        300.0,
        gt=0,
        description="How long a loading llama-server may neither log nor read before it is stopped.",
    )
    hang_timeout_seconds: float = Field(
        30.0,
        gt=0,
        description=(
            "How long a llama-server that has requests may not respond before it is killed and a new one started. "
            "31536000, a year: never."
        ),
    )
    max_excess_memory: Annotated[Memory, AfterValidator(_check_excess)] | None = Field(
        ByteSize(4 * 1024**3),
        description=(
            "RAM that a llama-server may hold beyond what was booked for it; one that holds more is killed, and its "
            "requests fail. 4 GiB is above what honest requests take (the largest bodies, several times over, while "
            "they are parsed); a runaway JSON schema or grammar takes it in seconds. Context checkpoints do not "
            "count. null: no limit."
        ),
    )
    kv_cache_disk: Memory = Field(
        ByteSize(16 * 1024**3),
        description=(
            "Disk space for the saved KV caches of all models with `keep_kv_cache`. The oldest are deleted first."
        ),
    )
    loading_comments: bool | Literal["reasoning_content"] = Field(
        True,
        description=(
            "A stream that waits for a load begins after two seconds and reports the load's progress. true: "
            "in SSE comments, which clients ignore; reasoning_content: in chats as reasoning text, which "
            "clients display; false: nothing is sent while waiting."
        ),
    )

    def fitting(self, server: ServerSettings) -> SchedulingSettings:
        """These settings, with a default of `max_waiting` that fits the threads. A configured number stays."""
        if "max_waiting" in self.model_fields_set:
            return self
        default = type(self).model_fields["max_waiting"].default
        available = server.threads - server.reserve_threads
        fitting = self.model_copy(update={"max_waiting": min(default, available - 1)})
        fitting.model_fields_set.discard("max_waiting")  # it is still a default
        return fitting
