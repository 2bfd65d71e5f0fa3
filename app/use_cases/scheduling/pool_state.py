"""PoolState: all the scheduler knows, and the small moves that every part of it makes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import CpuFallback, Placement, Policy, Rules
from app.entities.refusal import Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import ReleasingMemory, given_back
from app.use_cases.placement.request import Extra, PlacementRequest
from app.use_cases.scheduling.backoff import Backoffs
from app.use_cases.scheduling.demand import Demands
from app.use_cases.scheduling.events import Effect, Refuse, Stop, StopReason

NO_GPUS = GpuSnapshot(GpuState.NO_GPU, at=float("-inf"))

STARTING, READY, DRAINING, STOPPING = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.DRAINING,
    ServerState.STOPPING,
)

_SERVES = {READY: 0, DRAINING: 1, STARTING: 2, STOPPING: 3}  # the lower, the better


@dataclass(frozen=True, slots=True)
class Limits:
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
    look_seconds: float = 1.5
    first_look_seconds: float = 0.2  # at a stream: its client is missed at the next token
    notice_seconds: float = 5.0  # what the engine may take to see that a client of a stream has gone
    notice_in_silence_seconds: float = 5.0  # the same while it has nothing to write
    rules: Rules = field(default_factory=Rules)
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
    give_up_at: float
    awaited: Awaited = Awaited.SLOT
    placement_request: PlacementRequest | None = None  # what its model needs; None for who waits for a server's end
    conversation: int | None = None  # the one it belongs to, where its model may have several servers
    is_planned_anew: bool = False  # a server that was to serve it was stopped, because more was needed than booked


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

    limits: Limits = Limits()
    servers: tuple[Server, ...] = ()  # those with a process or about to have one, oldest first
    waiting: tuple[Waiter, ...] = ()  # oldest first
    memory: MemoryReading | None = None
    memory_asked_at: float | None = None  # a reading is on its way
    gpus: GpuSnapshot = NO_GPUS
    gpus_asked_at: float | None = None  # a reading is on its way
    gpus_are_late: bool = False  # it has not come for so long that it is not waited for
    returning: tuple[ReleasingMemory, ...] = ()  # memory of GPUs that servers which have ended held
    going: Mapping[int, tuple[ReleasingMemory, ...]] = field(
        default_factory=dict
    )  # what they held when told to end, by id
    plans: Mapping[int, PlacementRequest] = field(
        default_factory=dict
    )  # what was asked when a server was started, by its id
    lessons: Mapping[str, Extra] = field(default_factory=dict)  # what models were seen to lack, by name
    undecided: Undecided | None = None
    demands: Demands = field(default_factory=dict)  # how often models are asked for, and how long they load
    crowded: Mapping[str, float] = field(default_factory=dict)  # models whose slots are all taken, and since when
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

    def others(self, server: Server) -> tuple[Server, ...]:
        """All but this one."""
        return tuple(s for s in self.servers if s.id != server.id)

    def servers_of(self, model: str) -> tuple[Server, ...]:
        """All servers of a model, in whatever state, oldest first."""
        return tuple(s for s in self.servers if s.model.name == model)

    def server_of(self, model: str) -> Server | None:
        """The server of a model, in whatever state; of several the oldest of those that serve best."""
        found = None
        for server in self.servers:
            if server.model.name == model and (found is None or _SERVES[server.state] < _SERVES[found.state]):
                found = server
        return found

    def has_another(self, server: Server) -> bool:
        """Whether another server of its model is there, and stays or is waited for."""
        return any(each.id != server.id and each.state is not STOPPING for each in self.servers_of(server.model.name))

    def plan_of(self, model: Model) -> PlacementRequest | None:
        """What was asked when a server was started that serves this model, or will soon; None: there is none."""
        for server in self.servers:
            if server.model.name == model.name and server.state in (STARTING, READY):
                return self.plans.get(server.id) if server.model.is_served_as(model) else None
        return None

    @property
    def wanting(self) -> tuple[Waiter, ...]:
        """Those who wait for a server, not for its end."""
        return tuple(w for w in self.waiting if w.awaited is not Awaited.UNLOADED)

    @property
    def is_load_wanted(self) -> bool:
        """Whether somebody waits for a model that has no server at all."""
        up = {server.model.name for server in self.servers}
        return any(each.model.name not in up for each in self.wanting)


Step = tuple[PoolState, list[Effect]]


def changed(state: PoolState, server_id: int, change: Callable[[Server], Server]) -> PoolState:
    """The state with one server replaced."""
    return replace(state, servers=tuple(change(s) if s.id == server_id else s for s in state.servers))


def stop(state: PoolState, server: Server, why: StopReason, detail: str = "") -> Step:
    """Order a server's end. What it holds is noted now: a reading may show that as free before its exit is told."""
    held = given_back(server, state.others(server), state.gpus, float("inf"), state.returning)
    going = {**state.going, server.id: held}
    state = changed(replace(state, going=going), server.id, lambda s: s.moved(ServerState.STOPPING))
    return state, [Stop(server.id, why, detail)]


def turn_away(state: PoolState, refusals: Mapping[int, Refusal]) -> Step:
    """Refuse the waiting requests named by ticket."""
    if not refusals:
        return state, []
    effects: list[Effect] = [Refuse(w.ticket, refusals[w.ticket]) for w in state.waiting if w.ticket in refusals]
    return replace(state, waiting=tuple(w for w in state.waiting if w.ticket not in refusals)), effects


def turn_away_model(state: PoolState, refusal: Refusal) -> Step:
    """Refuse everyone who waits for a server of the refusal's model."""
    leaving = [w for w in state.wanting if w.model.name == refusal.model]
    effects: list[Effect] = [Refuse(w.ticket, refusal) for w in leaving]
    return replace(state, waiting=tuple(w for w in state.waiting if w not in leaving)), effects
