"""Events: the facts that the scheduler learns, each with its time (monotonic seconds)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from app.entities.gpu import GpuSnapshot
from app.entities.load import LoadReport
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pin_orders import Pinned


@dataclass(frozen=True, slots=True)
class Acquire:
    """A request needs a slot of one of its model's servers; it waits until `deadline` at most."""

    ticket: int  # identifies the request from here on: in the queue, in its lease, in its release
    model: Model
    at: float
    deadline: float
    placement_request: PlacementRequest  # what the model needs if a server has to be started
    conversation: int | None = None  # if its model may have several servers
    key: str = ""  # name of the client's API key; "" without keys
    request_hash: str = ""  # of the key, the model and all that the engine gets
    may_load: bool = True  # False: it is rejected where no server of its model is loading or loaded


@dataclass(frozen=True, slots=True)
class Load:
    """A client orders a load and waits until a server of the model is starting."""

    ticket: int
    model: Model
    at: float
    deadline: float
    placement_request: PlacementRequest


@dataclass(frozen=True, slots=True)
class Unload:
    """A client orders the model's servers to end, each after its running requests, and waits until they have."""

    ticket: int
    model: Model
    at: float
    deadline: float
    force_at: float = inf  # when requests that came before this order are ended


Command = Acquire | Load | Unload  # each is answered exactly once, by Grant, Done or Refuse


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of a waiting request has disconnected."""

    ticket: int
    at: float


class Ending(enum.Enum):
    """How much of its answer a request got. An engine notices a closed connection only when it next writes to it."""

    COMPLETE = enum.auto()
    NOT_SENT = enum.auto()  # the request never reached the engine
    ABORTED_WHILE_STREAMING = enum.auto()  # the engine writes every token, so it notices soon
    ABORTED_WHILE_SILENT = enum.auto()  # in the prompt, or an answer in one piece: it may generate for minutes


@dataclass(frozen=True, slots=True)
class Release:
    """A request gives its slot back, whatever the engine still does there."""

    ticket: int
    at: float
    ending: Ending = Ending.COMPLETE
    keep_alive_seconds: float | None = None  # idle time that the request asked for; None: as its settings say


@dataclass(frozen=True, slots=True)
class Spawned:
    """The server's process exists."""

    server: int
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Projected:
    """A starting server has reported what it will need, before it loads its weights."""

    server: int
    needs: Mapping[str, int]  # bytes by device: UUIDs of GPUs, and CPU
    at: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The memory of a server that has loaded its model was measured."""

    server: int
    needs: Mapping[str, int]
    at: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A loading server has shown progress."""

    server: int
    at: float
    load_progress: float | None = None  # 0 to 1; None: the engine does not report it


@dataclass(frozen=True, slots=True)
class Ready:
    """The server answers requests on its port."""

    server: int
    port: int
    at: float
    load: LoadReport | None = None


@dataclass(frozen=True, slots=True)
class ServerChecked:
    """How many slots a server reports as busy (None: it did not answer, or was not asked because it has worked), and
    its other signs of life."""

    server: int
    busy: int | None
    requested_at: float
    at: float
    is_listening: bool = True  # it answered something, if only /health
    has_worked: bool = False  # it has used CPU time since the last check


@dataclass(frozen=True, slots=True)
class GpuFailure:
    """How a server failed on its GPUs, other than by running out of their memory."""

    detail: str  # the engine's words
    is_unused: bool = False  # it ran, and used none: the model was on the CPU
    device: int | None = None  # the one that failed, by its place among the server's GPUs; None: not told
    is_of_card: bool = False  # no request and no model can cause it


@dataclass(frozen=True, slots=True)
class Exited:
    """The server's process has ended and was reaped, or could not be spawned."""

    server: int
    detail: str  # exit status and the last relevant lines of its log
    at: float
    could_not_spawn: bool = False
    ran_out_of_memory: bool = False  # of a GPU
    gpu_failure: GpuFailure | None = None
    exit_code: int | None = None  # negative: the number of the signal that ended it; None: unknown


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """The machine's memory was read."""

    memory: MemoryReading
    at: float


@dataclass(frozen=True, slots=True)
class MemoryReadFailed:
    """The machine's memory could not be read, for example because no file descriptor was left."""

    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class GpusPolled:
    """The GPUs were read; the snapshot says why if there are none."""

    gpus: GpuSnapshot
    at: float


@dataclass(frozen=True, slots=True)
class EngineReplaced:
    """New servers are started with another build of the engine; what earlier ones needed says nothing about it."""

    at: float


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The configuration was reloaded. `placement_requests`: of models whose settings have changed and that requests
    wait for, by name."""

    limits: SchedulingLimits
    models: Mapping[str, Model]  # the whole catalogue, by name
    placement_requests: Mapping[str, PlacementRequest]
    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Only time has passed: something may be due."""

    at: float


@dataclass(frozen=True, slots=True)
class Drain:
    """The service shuts down: accept nothing new, let running requests finish."""

    at: float


@dataclass(frozen=True, slots=True)
class Close:
    """The drain has ended: stop every server now."""

    at: float


Event = (
    Command
    | Cancel
    | Release
    | Spawned
    | Projected
    | Measured
    | Progress
    | Ready
    | ServerChecked
    | Exited
    | MemoryRead
    | MemoryReadFailed
    | GpusPolled
    | EngineReplaced
    | Pinned
    | Reconfigured
    | Tick
    | Drain
    | Close
)
