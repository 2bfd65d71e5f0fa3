"""PoolState: everything the scheduler knows, and the small changes that every pass makes to it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.frozen import replace
from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Placement
from app.entities.refusal import Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.releasing import ReleasingMemory, memory_to_release
from app.use_cases.placement.request import LearnedMargin, PlacementRequest
from app.use_cases.placement.usable_gpus import why_no_gpu
from app.use_cases.scheduling.backoff import Backoffs
from app.use_cases.scheduling.card_failures import CardFailures
from app.use_cases.scheduling.demand import Demands
from app.use_cases.scheduling.effects import Effect, Refuse, Spawn, Stop, StopReason
from app.use_cases.scheduling.evaluation import Evaluation
from app.use_cases.scheduling.held_levels import HeldLevels
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pin_orders import PinOrders
from app.use_cases.scheduling.suspicion import Crash, ExclusiveUse, Suspect

NO_GPUS = GpuSnapshot(GpuState.NO_GPU, at=float("-inf"))

STARTING, READY, DRAINING, STOPPING = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.DRAINING,
    ServerState.STOPPING,
)

REMEMBERED_ENDINGS = 32  # requests learn them within milliseconds
_PREFERENCE = {READY: 0, DRAINING: 1, STARTING: 2, STOPPING: 3}  # the lowest serves a model best


class Awaited(enum.Enum):
    """What a request waits for."""

    SLOT = enum.auto()  # of one of its model's servers
    LOADED = enum.auto()  # a server of its model that is loading or loaded
    UNLOADED = enum.auto()  # the end of all its model's servers


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue."""

    ticket: int
    model: Model
    since: float
    deadline: float
    awaited: Awaited = Awaited.SLOT
    placement_request: PlacementRequest | None = None  # what its model needs; None while it awaits UNLOADED
    conversation: int | None = None  # if its model may have several servers
    is_replanned: bool = False  # a start for it was aborted already, because the model needed more than was booked
    key: str = ""  # name of the client's API key; "" without keys, and for loads and unloads
    request_hash: str = ""
    may_load: bool = True  # False: it is rejected once its model has no server

    @property
    def uses_gpus(self) -> bool:
        """Whether its model may be placed on GPUs."""
        request = self.placement_request
        return (request.options if request else self.model.launch.options).n_gpu_layers != 0


Conversations = Mapping[int, int]  # the id of the server that each used last, the latest conversation last


@dataclass(frozen=True, slots=True)
class Failure:
    """How a model's last start failed; forgotten when the next one succeeds."""

    detail: str
    at: float
    exit_code: int | None = None  # of the process; negative: the number of the signal; None: unknown


@dataclass(frozen=True, slots=True)
class ServerEnding:
    """Why a server ended or was killed while it answered requests."""

    detail: str
    is_hung: bool = False  # it did not respond
    is_unloaded: bool = False  # by order
    is_due_to_request: bool = False  # for which it took far more memory than was booked


@dataclass(frozen=True)
class PoolState:
    """Everything the scheduler knows. Replaced whole by `step`; any thread may keep and read an old one."""

    limits: SchedulingLimits = field(default_factory=SchedulingLimits)
    servers: tuple[Server, ...] = ()  # from the order to spawn until the exit, oldest first
    waiting: tuple[Waiter, ...] = ()  # oldest first
    memory: MemoryReading | None = None
    memory_requested_at: float | None = None  # of the reading on its way
    memory_failed_at: float = float("-inf")  # of the last reading that failed
    gpus: GpuSnapshot = NO_GPUS
    are_pids_shown: bool = False  # NVML has shown the pid of a server: one that it does not show uses no GPU
    gpus_requested_at: float | None = None  # of the reading on its way
    gpu_reading_is_late: bool = False  # and no longer waited for
    engine_replaced_at: float = float("-inf")  # a reading from before says nothing about what the engine can use
    known_gpus: Mapping[str, Gpu] = field(default_factory=dict)  # by UUID, as last read: those missing now, too
    held_by_others: Mapping[str, HeldLevels] = field(default_factory=dict)  # by GPU's UUID, and of RAM (CPU)
    gpus_needed_at: float = float("-inf")  # when a load last asked for a reading; at first: when the GPUs were read
    releasing: tuple[ReleasingMemory, ...] = ()  # GPU memory of servers that have ended
    # By server id: the GPU memory that servers held when their stop was ordered.
    held_when_stopped: Mapping[int, tuple[ReleasingMemory, ...]] = field(default_factory=dict)
    placement_requests: Mapping[int, PlacementRequest] = field(default_factory=dict)  # by server id: as it was started
    learned_margins: Mapping[str, LearnedMargin] = field(default_factory=dict)  # by model name; until it is measured
    runtime_margins: Mapping[str, LearnedMargin] = field(default_factory=dict)  # by model name
    evaluation: Evaluation | None = None
    demands: Demands = field(default_factory=dict)
    saturated_since: Mapping[str, float] = field(default_factory=dict)  # by model name: while requests wait for a slot
    conversations: Mapping[str, Conversations] = field(default_factory=dict)  # by name, of models with replicas
    # By model name: keys in the order in which they last got a slot of it while others waited.
    slot_rotation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    load_rotation: tuple[str, ...] = ()  # keys in the order in which their last load began
    last_exit_at: float = float("-inf")  # a reading from before still counts memory that is being released
    failures: Mapping[str, Failure] = field(default_factory=dict)  # by model name
    backoffs: Backoffs = field(default_factory=dict)
    card_failures: CardFailures = field(default_factory=dict)  # `gpus` is without the cards that are set aside
    endings: Mapping[int, ServerEnding] = field(default_factory=dict)  # by server id, the last few in mid-answer
    suspects: Mapping[str, Suspect] = field(default_factory=dict)  # by request hash, the latest last
    crashes: Mapping[str, tuple[Crash, ...]] = field(default_factory=dict)  # by model name, the last few
    exclusive_uses: Mapping[str, ExclusiveUse] = field(default_factory=dict)  # by model name
    pin_orders: PinOrders = field(default_factory=dict)
    # Models, by name, whose servers were stopped for what their prompt caches had: how to place the next one.
    restarts: Mapping[str, tuple[Model, PlacementRequest]] = field(default_factory=dict)
    draining: bool = False
    closing: bool = False
    next_server: int = 1

    def server(self, server_id: int) -> Server | None:
        return next((s for s in self.servers if s.id == server_id), None)

    def servers_except(self, server: Server) -> tuple[Server, ...]:
        return tuple(s for s in self.servers if s.id != server.id)

    def servers_of(self, model: str) -> tuple[Server, ...]:
        """All servers of a model, in whatever state, oldest first."""
        return tuple(s for s in self.servers if s.model.name == model)

    def server_of(self, model: str) -> Server | None:
        """The server of a model, in whatever state; of several the one that serves best, of equals the oldest."""
        best = None
        for server in self.servers:
            if server.model.name == model and (best is None or _PREFERENCE[server.state] < _PREFERENCE[best.state]):
                best = server
        return best

    def has_another(self, server: Server) -> bool:
        """Whether its model has another server that is not stopping."""
        return any(s.id != server.id and s.state is not STOPPING for s in self.servers_of(server.model.name))

    def placement_request_of(self, model: Model) -> PlacementRequest | None:
        """The request that a server of this model was started with; None if none is ready or starting."""
        for server in self.servers:
            if server.model.name == model.name and server.state in (STARTING, READY):
                return self.placement_requests.get(server.id) if server.model.is_served_as(model) else None
        return None

    @property
    def waiting_for_server(self) -> tuple[Waiter, ...]:
        """The waiters that need a server; not those that await the end of one."""
        return tuple(w for w in self.waiting if w.awaited is not Awaited.UNLOADED)

    @property
    def has_waiting_load(self) -> bool:
        """Whether a request waits for a model that has no server at all."""
        loaded = {server.model.name for server in self.servers}
        return any(w.model.name not in loaded for w in self.waiting_for_server)


Step = tuple[PoolState, list[Effect]]


def update_server(state: PoolState, server_id: int, change: Callable[[Server], Server]) -> PoolState:
    """The state with one server replaced by `change` of it."""
    return replace(state, servers=tuple(change(s) if s.id == server_id else s for s in state.servers))


def start_server(state: PoolState, waiter: Waiter, placement: Placement, now: float) -> Step:
    """Order a server of the waiter's model, and book the placement for it."""
    assert waiter.placement_request is not None
    server = Server(
        id=state.next_server,
        model=waiter.model,
        placement=placement,
        booked=placement.booked_bytes,
        is_load_ordered=waiter.awaited is Awaited.LOADED,
        gpu_problem=why_no_gpu(state.gpus.as_of(now), waiter.placement_request) if placement.is_on_cpu else "",
        is_replanned=waiter.is_replanned,
        started_at=now,
        last_used=now,
        progress_at=now,
    )
    requests = {**state.placement_requests, server.id: waiter.placement_request}
    servers = (*state.servers, server)
    keys = dict.fromkeys(w.key for w in state.waiting_for_server if w.model.name == waiter.model.name)
    rotation = (*(key for key in state.load_rotation if key not in keys), *keys)
    state = replace(
        state, servers=servers, placement_requests=requests, next_server=server.id + 1, load_rotation=rotation
    )
    return state, [Spawn(server)]


def stop_server(state: PoolState, server: Server, why: StopReason, detail: str = "") -> Step:
    """Order a server's end. What it holds is noted now: a reading may show that as free before Exited arrives."""
    held = memory_to_release(server, state.servers_except(server), state.gpus, float("inf"), state.releasing)
    state = replace(state, held_when_stopped={**state.held_when_stopped, server.id: held})
    state = update_server(state, server.id, lambda s: s.with_state(STOPPING))
    return state, [Stop(server.id, why, detail)]


def begin_termination(state: PoolState, server: Server) -> PoolState:
    """The server draining for good: never ready again, even if the client that ordered it disconnects."""
    draining = server if server.state is DRAINING else server.with_state(DRAINING)
    return update_server(state, server.id, lambda _: replace(draining, is_terminating=True))


def note_failure(state: PoolState, server: Server, detail: str, at: float, exit_code: int | None = None) -> PoolState:
    """Note how the server's start failed, or why it was stopped, for the next request's error."""
    return replace(state, failures={**state.failures, server.model.name: Failure(detail, at, exit_code)})


def note_ending(state: PoolState, server: Server, ending: ServerEnding) -> PoolState:
    """Note why a server ended that had requests, for the errors that they get."""
    endings = {**state.endings, server.id: ending}
    return replace(state, endings=dict(list(endings.items())[-REMEMBERED_ENDINGS:]))


def reject(state: PoolState, refusals: Mapping[int, Refusal]) -> Step:
    """Reject the waiting requests with these tickets."""
    if not refusals:
        return state, []
    effects: list[Effect] = [Refuse(w.ticket, refusals[w.ticket]) for w in state.waiting if w.ticket in refusals]
    return replace(state, waiting=tuple(w for w in state.waiting if w.ticket not in refusals)), effects


def reject_model(state: PoolState, refusal: Refusal) -> Step:
    """Reject every request that waits for a server of the refusal's model."""
    return reject(state, {w.ticket: refusal for w in state.waiting_for_server if w.model.name == refusal.model})
