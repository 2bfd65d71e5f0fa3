"""PoolState: all the scheduler knows, and the small moves that every part of it makes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import CpuFallback, GpuLimits, Placement, Policy
from app.entities.refusal import Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import ReleasingMemory, memory_to_release
from app.use_cases.placement.request import LearnedMargin, PlacementRequest
from app.use_cases.scheduling.backoff import Backoffs
from app.use_cases.scheduling.demand import Demands
from app.use_cases.scheduling.effects import Effect, Refuse, Stop, StopReason

NO_GPUS = GpuSnapshot(GpuState.NO_GPU, at=float("-inf"))

STARTING, READY, DRAINING, STOPPING = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.DRAINING,
    ServerState.STOPPING,
)

_PREFERENCE = {READY: 0, DRAINING: 1, STARTING: 2, STOPPING: 3}  # the lower, the better


@dataclass(frozen=True, slots=True)
class SchedulingLimits:
    """The settings that decide; see app/settings/schema.py for what each means."""

    max_waiting: int = 256
    max_waiting_per_model: int = 128
    max_loaded: int | None = None
    max_wait_seconds: float = 300.0
    min_residency_seconds: float = 20.0
    ttl_seconds: float = 900.0
    stall_timeout_seconds: float = 300.0
    # How often an engine is asked whether a slot that a client left is free. llama-server looks for the client only
    # after a second without any result, and what it is asked here is one: asked more often, it goes on for ever
    # (b11434, server-queue.cpp, recv_with_timeout and HTTP_POLLING_SECONDS).
    slot_check_seconds: float = 1.5
    first_slot_check_seconds: float = 0.2  # at a stream: its client is missed at the next token
    disconnect_notice_seconds: float = 5.0  # what the engine may take to see that a client of a stream has gone
    silent_disconnect_notice_seconds: float = 5.0  # the same while it has nothing to write
    gpu_limits: GpuLimits = field(default_factory=GpuLimits)
    policy: Policy = field(default_factory=Policy)
    cpu_fallback: CpuFallback = CpuFallback.AUTO


class Awaited(enum.Enum):
    """What a request waits for."""

    SLOT = enum.auto()  # one of its model's servers
    LOADED = enum.auto()  # one to be there, loading or loaded
    UNLOADED = enum.auto()  # all to be gone


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue."""

    ticket: int
    model: Model
    since: float
    deadline: float
    awaited: Awaited = Awaited.SLOT
    placement_request: PlacementRequest | None = None  # what its model needs; None for who waits for a server's end
    conversation: int | None = None  # the one it belongs to, where its model may have several servers
    is_replanned: bool = False  # a server that was to serve it was stopped, because more was needed than booked


@dataclass(frozen=True, slots=True)
class Basis:
    """All that decides about the places of loads but for time. Nothing is decided twice on the same."""

    servers: tuple[tuple[int, ServerState], ...]
    spoken_for: frozenset[str]  # models that are up and waited for
    has_gpus: bool
    room: tuple[object, ...]  # what is free, comes back and is held: a reading that shows the same is no news


Conversations = Mapping[int, int]  # the server that each was last with, the latest last
Load = tuple[int, PlacementRequest | None, int]  # the ticket of its oldest request, and roughly how many wait for it


@dataclass(frozen=True, slots=True)
class Undecided:
    """The loads that may not start yet: what they were looked at with, and when that has to be done again."""

    loads: tuple[Load, ...]  # in the order of their turns
    promises: tuple[tuple[Placement, tuple[int, ...]], ...]  # places they wait for, and servers that go for them
    basis: Basis
    busy: frozenset[int]  # servers; one that is idle now may be stopped
    at: float
    again_at: float


@dataclass(frozen=True, slots=True)
class Sought:
    """The models that want another replica and have no place for it: what was known when it was last looked for one."""

    models: tuple[str, ...]
    servers: tuple[tuple[int, ServerState], ...]
    room: tuple[object, ...] = ()  # what was free at the last decision
    is_decided: bool = False  # no: readings for it were asked for
    again_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a model's last start ended; forgotten when the next one succeeds."""

    detail: str
    at: float


@dataclass(frozen=True)
class PoolState:
    """All the scheduler knows. Replaced whole by `step`; anyone may keep and read an old one."""

    limits: SchedulingLimits = SchedulingLimits()
    servers: tuple[Server, ...] = ()  # those with a process or about to have one, oldest first
    waiting: tuple[Waiter, ...] = ()  # oldest first
    memory: MemoryReading | None = None
    memory_requested_at: float | None = None  # a reading is on its way
    gpus: GpuSnapshot = NO_GPUS
    gpus_requested_at: float | None = None  # a reading is on its way
    gpu_reading_is_late: bool = False  # it has not come for so long that it is not waited for
    releasing: tuple[ReleasingMemory, ...] = ()  # memory of GPUs that servers which have ended held
    held_when_stopped: Mapping[int, tuple[ReleasingMemory, ...]] = field(
        default_factory=dict
    )  # what they held when told to end, by id
    placement_requests: Mapping[int, PlacementRequest] = field(
        default_factory=dict
    )  # what was asked when a server was started, by its id
    learned_margins: Mapping[str, LearnedMargin] = field(default_factory=dict)  # what models were seen to lack, by name
    undecided: Undecided | None = None
    demands: Demands = field(default_factory=dict)  # how often models are asked for, and how long they load
    saturated_since: Mapping[str, float] = field(
        default_factory=dict
    )  # models whose slots are all taken, and since when
    sought: Sought | None = None
    conversations: Mapping[str, Conversations] = field(default_factory=dict)  # of models with replicas, by name
    last_exit_at: float = float("-inf")  # a reading taken before this still counts bytes that are back
    failures: Mapping[str, Failure] = field(default_factory=dict)  # by model name
    backoffs: Backoffs = field(default_factory=dict)
    draining: bool = False
    closing: bool = False
    next_server: int = 1

    def server(self, server_id: int) -> Server | None:
        return next((s for s in self.servers if s.id == server_id), None)

    def servers_except(self, server: Server) -> tuple[Server, ...]:
        """All but this one."""
        return tuple(s for s in self.servers if s.id != server.id)

    def servers_of(self, model: str) -> tuple[Server, ...]:
        """All servers of a model, in whatever state, oldest first."""
        return tuple(s for s in self.servers if s.model.name == model)

    def server_of(self, model: str) -> Server | None:
        """The server of a model, in whatever state; of several the oldest of those that serve best."""
        found = None
        for server in self.servers:
            if server.model.name == model and (found is None or _PREFERENCE[server.state] < _PREFERENCE[found.state]):
                found = server
        return found

    def has_another(self, server: Server) -> bool:
        """Whether another server of its model is there, and stays or is waited for."""
        return any(each.id != server.id and each.state is not STOPPING for each in self.servers_of(server.model.name))

    def placement_request_of(self, model: Model) -> PlacementRequest | None:
        """What was asked when a server was started that serves this model, or will soon; None: there is none."""
        for server in self.servers:
            if server.model.name == model.name and server.state in (STARTING, READY):
                return self.placement_requests.get(server.id) if server.model.is_served_as(model) else None
        return None

    @property
    def waiting_for_server(self) -> tuple[Waiter, ...]:
        """Those who wait for a server, not for its end."""
        return tuple(w for w in self.waiting if w.awaited is not Awaited.UNLOADED)

    @property
    def has_waiting_load(self) -> bool:
        """Whether somebody waits for a model that has no server at all."""
        up = {server.model.name for server in self.servers}
        return any(each.model.name not in up for each in self.waiting_for_server)


Step = tuple[PoolState, list[Effect]]


def update_server(state: PoolState, server_id: int, change: Callable[[Server], Server]) -> PoolState:
    """The state with one server replaced."""
    return replace(state, servers=tuple(change(s) if s.id == server_id else s for s in state.servers))


def stop_server(state: PoolState, server: Server, why: StopReason, detail: str = "") -> Step:
    """Order a server's end. What it holds is noted now: a reading may show that as free before its exit is told."""
    held = memory_to_release(server, state.servers_except(server), state.gpus, float("inf"), state.releasing)
    held_when_stopped = {**state.held_when_stopped, server.id: held}
    state = update_server(
        replace(state, held_when_stopped=held_when_stopped), server.id, lambda s: s.with_state(ServerState.STOPPING)
    )
    return state, [Stop(server.id, why, detail)]


def reject(state: PoolState, refusals: Mapping[int, Refusal]) -> Step:
    """Refuse the waiting requests named by ticket."""
    if not refusals:
        return state, []
    effects: list[Effect] = [Refuse(w.ticket, refusals[w.ticket]) for w in state.waiting if w.ticket in refusals]
    return replace(state, waiting=tuple(w for w in state.waiting if w.ticket not in refusals)), effects


def reject_model(state: PoolState, refusal: Refusal) -> Step:
    """Refuse everyone who waits for a server of the refusal's model."""
    leaving = [w for w in state.waiting_for_server if w.model.name == refusal.model]
    effects: list[Effect] = [Refuse(w.ticket, refusal) for w in leaving]
    return replace(state, waiting=tuple(w for w in state.waiting if w not in leaving)), effects
