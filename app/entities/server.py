"""Server: one llama-server process and the states it may be in.

    starting --> ready <-> draining --> stopping --> stopped
       |           |          |            ^
       |           +----------|------------+
       |           |          |            |
       +-----------|----------|------------+
       |           |          |
       +-----------+----------+--> failed

`stopped` is an end the scheduler ordered, `failed` any other. A new transition goes into this diagram and into
TRANSITIONS first, then into code.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from app.entities.frozen import replace
from app.entities.launch import AUTO_PROMPT_CACHE
from app.entities.load import LoadReport
from app.entities.model import Model
from app.entities.placement import Placement


class ServerState(enum.StrEnum):
    STARTING = "starting"  # spawned, loading its model
    READY = "ready"  # serves requests
    DRAINING = "draining"  # finishes its requests, accepts no new ones
    STOPPING = "stopping"  # ordered to exit; its memory is being released
    STOPPED = "stopped"  # reaped after an ordered stop
    FAILED = "failed"  # exited without an order


TRANSITIONS: Mapping[ServerState, frozenset[ServerState]] = {
    ServerState.STARTING: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.READY: frozenset({ServerState.DRAINING, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.DRAINING: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
    ServerState.STOPPING: frozenset({ServerState.STOPPED}),
    ServerState.STOPPED: frozenset(),
    ServerState.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that a server may be working on."""

    request_hash: str  # "" if it has no body
    key: str  # name of the client's API key; "" without keys


@dataclass(frozen=True)
class Server:
    """A llama-server as the scheduler knows it. Immutable: changes make a new value. Times are monotonic seconds."""

    id: int
    model: Model
    placement: Placement
    booked: Mapping[str, int]  # bytes by device (GPU's UUID, or CPU), until it has exited
    started_at: float
    last_used: float  # at the start, then at every release of a slot: idle time counts from here
    progress_at: float  # last sign of life while loading
    load_progress: float | None = None  # of the current load, 0 to 1; None: not reported by the engine
    ready_at: float | None = None
    load: LoadReport | None = None  # once it is ready
    reported: Mapping[str, int] | None = None  # bytes its llama-server reports: before loading, then as measured
    least_held_bytes: int | None = None  # of RAM, by the readings since it was ready: the rest is in the prompt cache
    is_load_ordered: bool = False  # started for a Load, whose client does not wait until it is ready
    gpu_problem: str = ""  # why it is on the CPU: no GPU that it may use was usable when it was placed
    is_replanned: bool = False  # replaces a server that was stopped because it needed more than was booked
    state: ServerState = ServerState.STARTING
    keep_alive_seconds: float | None = None  # idle time requested by its last request; None: as configured
    has_completed_request: bool = False  # at least one request was answered completely
    drained_for: str = ""  # the model it is drained for
    is_terminating: bool = False  # stops once drained, never returns to ready
    is_unload_requested: bool = False  # stops because of an unload command
    force_unload_at: float = inf  # when that command ends the requests that came before it
    unload_ticket: int = 0  # of that command: earlier requests have smaller ones
    abandoned_slots: int = 0  # slots whose client disconnected, until the engine reports them free
    next_check_at: float | None = None  # when to ask the engine about them, or whether it responds
    unresponsive_since: float | None = None  # the first check without a sign of life since the last one with
    disconnect_deadline: float = 0.0  # when the engine must have noticed the disconnects
    leases: frozenset[int] = frozenset()  # tickets of its running requests
    # By ticket: the running requests, and those whose clients have disconnected, until all slots of such are free.
    in_flight: Mapping[int, InFlight] = field(default_factory=dict)
    exclusive_ticket: int | None = None  # ticket of the suspect request that it is held for, or that runs alone
    pid: int | None = None
    port: int | None = None

    @property
    def expected_bytes(self) -> int:
        """Booked on all devices together, without its prompt cache."""
        return sum(self.booked.values()) - self.placement.prompt_cache_bytes

    @property
    def reported_bytes(self) -> int | None:
        return None if self.reported is None else sum(self.reported.values())

    @property
    def spare_cache_bytes(self) -> int:
        """Of RAM, for its prompt cache, that it was given because it was free."""
        is_spare = self.model.launch.options.prompt_cache == AUTO_PROMPT_CACHE
        return self.placement.prompt_cache_bytes if is_spare else 0

    def unfilled_cache_bytes(self, held_bytes: int) -> int:
        """What its prompt cache may still take, if the process holds so much RAM."""
        size = self.placement.prompt_cache_bytes
        filled = 0 if self.least_held_bytes is None else max(0, held_bytes - self.least_held_bytes)
        return max(0, size - filled)

    @property
    def slots(self) -> int:
        """Number of concurrent requests."""
        return self.model.launch.options.parallel

    @property
    def is_up(self) -> bool:
        """Whether it answers requests, possibly only those it already has."""
        return self.state in (ServerState.READY, ServerState.DRAINING)

    @property
    def is_idle(self) -> bool:
        return self.state is ServerState.READY and not self.leases

    @property
    def slots_busy(self) -> int:
        """Those of clients that have disconnected among them, until the engine has noticed."""
        return min(self.slots, len(self.leases) + self.abandoned_slots)

    @property
    def has_free_slot(self) -> bool:
        return self.is_responding and self.exclusive_ticket is None and self.slots_busy < self.slots

    @property
    def is_responding(self) -> bool:
        """Whether it accepts requests. What is sent to a server that does not respond might be lost with it."""
        return self.state is ServerState.READY and self.unresponsive_since is None

    @property
    def is_empty(self) -> bool:
        """Whether it works on no request at all."""
        return not (self.leases or self.abandoned_slots or self.in_flight)

    def leased(self, ticket: int, request: InFlight, check_at: float) -> Server:
        """This server with one more lease. `check_at`: when it is checked, unless it is sooner."""
        next_check_at = check_at if self.next_check_at is None else self.next_check_at
        in_flight = {**self.in_flight, ticket: request}
        return replace(self, leases=self.leases | {ticket}, in_flight=in_flight, next_check_at=next_check_at)

    def without_in_flight(self, ticket: int) -> Server:
        """This server, which does not work on the request any more."""
        return replace(self, in_flight={other: each for other, each in self.in_flight.items() if other != ticket})

    def with_only_leases_in_flight(self) -> Server:
        """This server once it works on nothing but its running requests."""
        in_flight = {ticket: each for ticket, each in self.in_flight.items() if ticket in self.leases}
        return replace(self, in_flight=in_flight)

    def released(self, ticket: int, at: float, is_complete: bool, keep_alive_seconds: float | None) -> Server:
        """This server without the lease. `is_complete`: the request was answered completely."""
        leases = self.leases - {ticket}
        is_checked = leases or self.abandoned_slots or self.unresponsive_since is not None
        return replace(
            self,
            leases=leases,
            next_check_at=self.next_check_at if is_checked else None,
            last_used=at,
            has_completed_request=self.has_completed_request or is_complete,
            keep_alive_seconds=keep_alive_seconds,
        )

    def with_state(self, to: ServerState) -> Server:
        """This server in its next state. Asserts that TRANSITIONS permits it."""
        assert to in TRANSITIONS[self.state], f"server {self.id} ({self.model.name}): {self.state} -> {to}"
        return replace(self, state=to)
