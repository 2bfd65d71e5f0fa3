"""Server: one llama-server process and the states it may be in.

    starting --> ready <-> draining --> stopping --> stopped
       |           |          |            ^
       |           +----------|------------+
       |           |          |            |
       +-----------|----------|------------+
       |           |          |
       +-----------+----------+--> failed

`failed` is an end nobody ordered; `stopped` is one we did. A new arrow goes into the drawing and
TRANSITIONS first, then into code.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.frozen import replace
from app.entities.model import Model
from app.entities.placement import Placement


class ServerState(enum.StrEnum):
    STARTING = "starting"  # spawned, loading its model
    READY = "ready"  # answers requests
    DRAINING = "draining"  # finishes what it has, takes nothing new
    STOPPING = "stopping"  # told to end; its memory is on its way back
    STOPPED = "stopped"  # reaped after a stop we ordered
    FAILED = "failed"  # ended by itself


TRANSITIONS: Mapping[ServerState, frozenset[ServerState]] = {
    ServerState.STARTING: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.READY: frozenset({ServerState.DRAINING, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.DRAINING: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.STOPPING: frozenset({ServerState.STOPPED}),
    ServerState.STOPPED: frozenset(),
    ServerState.FAILED: frozenset(),
}


@dataclass(frozen=True)
class Server:
    """A llama-server as the scheduler knows it. Replaced, never changed."""

    id: int
    model: Model
    placement: Placement
    booked: Mapping[str, int]  # by device (GPU's UUID, or CPU), until it is gone
    started_at: float  # monotonic seconds, as all times
    last_used: float  # at the start, then at every release: its idle time starts here
    progress_at: float  # last sign of life while loading
    load_progress: float | None = None  # of a load that is going on, 0 to 1, where the engine says it
    ready_at: float | None = None
    reported: Mapping[str, int] | None = None  # what its llama-server says it needs: before it loads, then as measured
    is_replanned: bool = False  # the one before it was stopped: it needed more than was booked
    state: ServerState = ServerState.STARTING
    keep_alive_seconds: float | None = None  # idle time that its last request wished for
    has_completed_request: bool = False  # a request got its whole answer
    drained_for: str = ""  # the model that was to have its room
    is_terminating: bool = False  # told to go for good: once drained it is not ready again
    is_unload_requested: bool = False  # somebody ordered that
    abandoned_slots: int = 0  # slots whose client left in mid-answer, until the engine says that they are free
    next_slot_check_at: float | None = None  # when to ask it
    disconnect_deadline: float = 0.0  # that they have left
    leases: frozenset[int] = frozenset()  # tickets of the requests it is answering
    pid: int | None = None
    port: int | None = None

    @property
    def expected_bytes(self) -> int:
        """Booked for it, on all devices together."""
        return sum(self.booked.values())

    @property
    def reported_bytes(self) -> int | None:
        return None if self.reported is None else sum(self.reported.values())

    @property
    def slots(self) -> int:
        """How many requests it answers at the same time."""
        return self.model.launch.options.parallel

    @property
    def is_up(self) -> bool:
        """Whether it answers, be it only what it has begun."""
        return self.state in (ServerState.READY, ServerState.DRAINING)

    @property
    def is_idle(self) -> bool:
        return self.state is ServerState.READY and not self.leases

    @property
    def has_free_slot(self) -> bool:
        return self.state is ServerState.READY and len(self.leases) + self.abandoned_slots < self.slots

    def with_state(self, to: ServerState) -> Server:
        """The server in its next state. An arrow that is not in TRANSITIONS is a bug."""
        assert to in TRANSITIONS[self.state], f"server {self.id} ({self.model.name}): {self.state} -> {to}"
        return replace(self, state=to)
