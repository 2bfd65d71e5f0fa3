"""SchedulingLimits: the settings that the scheduler goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.entities.launch import OwnEngine
from app.entities.placement import CpuFallback, GpuLimits, Policy

CHECKS_WITHOUT_RESPONSE = 6  # about so many in a row, and a server is hung


@dataclass(frozen=True, slots=True)
class SchedulingLimits:
    """The settings that decide; app/settings/sections/scheduling.py says what each means."""

    max_waiting: int = 256
    max_waiting_per_model: int = 128
    max_loaded: int | None = None
    max_wait_seconds: float = 300.0
    min_residency_seconds: float = 20.0
    ttl_seconds: float = 900.0
    stall_timeout_seconds: float = 300.0
    max_excess_memory_bytes: int | None = None  # None: RAM is not watched
    # How often an engine is polled for its busy slots after a client has disconnected. llama-server checks for the
    # client only after a second without any result, and an answer to this poll is a result: polled more often, it
    # generates for ever (b11434, server-queue.cpp, recv_with_timeout and HTTP_POLLING_SECONDS).
    slot_check_seconds: float = 1.5
    first_slot_check_seconds: float = 0.2  # after a stream: the engine notices at the next token
    disconnect_notice_seconds: float = 5.0  # what an engine may take to notice that the client of a stream disconnected
    silent_disconnect_notice_seconds: float = 5.0  # the same while it has nothing to write
    own_silent_notice_seconds: Mapping[OwnEngine, float] = field(default_factory=dict)  # the same, of models' own
    hang_timeout_seconds: float = 30.0
    gpu_limits: GpuLimits = field(default_factory=GpuLimits)
    policy: Policy = field(default_factory=Policy)
    cpu_fallback: CpuFallback = CpuFallback.AUTO
    gpu_idle_close_seconds: float | None = None  # None: NVML is never closed

    def silent_notice_seconds_of(self, engine: OwnEngine | None) -> float:
        """The silent_disconnect_notice_seconds of this engine; None: of the service's."""
        if engine is None:
            return self.silent_disconnect_notice_seconds
        return self.own_silent_notice_seconds.get(engine, self.silent_disconnect_notice_seconds)

    @property
    def liveness_check_seconds(self) -> float:
        """Between two checks of a server that has requests."""
        return self.hang_timeout_seconds / CHECKS_WITHOUT_RESPONSE
