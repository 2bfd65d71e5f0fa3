"""What the scheduler is told and what it orders: events are facts with their time, effects are orders."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.gpu import GpuSnapshot
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Decision
from app.entities.refusal import Refusal
from app.entities.server import Server
from app.use_cases.placement.request import PlacementRequest

# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acquire:
    """A request wants a slot of its model's server and waits for it, until `give_up_at` at most."""

    ticket: int  # names the request from here on: in the queue, in its lease, in its release
    model: Model
    at: float
    give_up_at: float
    placement_request: PlacementRequest  # what it needs, should a server have to be started for it
    conversation: int | None = None  # the one it belongs to, where its model may have several servers


@dataclass(frozen=True, slots=True)
class Load:
    """Somebody wants a server of the model to be there, loading or loaded, and waits until there is room for it."""

    ticket: int
    model: Model
    at: float
    give_up_at: float
    placement_request: PlacementRequest


@dataclass(frozen=True, slots=True)
class Unload:
    """Somebody wants the model's servers to go once each has answered what it is answering, and waits for that."""

    ticket: int
    model: Model
    at: float
    give_up_at: float


Command = Acquire | Load | Unload  # what requests wait for; each is answered once: Grant, Done or Refuse


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of a waiting request has gone."""

    ticket: int
    at: float


class Ending(enum.Enum):
    """How much of its answer a request got. An engine notices a closed connection when it next writes to it."""

    COMPLETE = enum.auto()
    UNSENT = enum.auto()  # the engine was never asked
    CUT_IN_STREAM = enum.auto()  # it writes every token, so it notices soon
    CUT_IN_SILENCE = enum.auto()  # in the prompt, or an answer in one piece: it may go on for minutes


@dataclass(frozen=True, slots=True)
class Release:
    """A request is done with its slot, whatever the engine is still doing with it."""

    ticket: int
    at: float
    ending: Ending = Ending.COMPLETE
    keep_seconds: float | None = None  # so long the server is to stay idle for this request; None: as its settings say


@dataclass(frozen=True, slots=True)
class Spawned:
    """The server's process exists."""

    server: int
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Projected:
    """A starting server has said what it will need, before its weights move."""

    server: int
    needs: Mapping[str, int]  # by device, as it is booked
    at: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A server that has loaded its model was looked at: so much it needs."""

    server: int
    needs: Mapping[str, int]
    at: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A loading server showed a sign of life."""

    server: int
    at: float
    loaded_share: float | None = None  # 0 to 1, where it says how far it is


@dataclass(frozen=True, slots=True)
class Ready:
    """The server answers requests on its port."""

    server: int
    port: int
    at: float


@dataclass(frozen=True, slots=True)
class SlotsCounted:
    """How many slots a server itself calls busy; None: it did not answer."""

    server: int
    busy: int | None
    asked_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Exited:
    """The server's process is gone and reaped, or never came to be."""

    server: int
    detail: str  # exit status and the last lines of its log that mean something
    at: float
    could_not_spawn: bool = False
    ran_out_of_memory: bool = False  # of a GPU's, while it was loading


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """A new reading of the machine's memory."""

    memory: MemoryReading
    at: float


@dataclass(frozen=True, slots=True)
class ReadingFailed:
    """The machine's memory could not be read: no file descriptor is left, say."""

    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class GpusPolled:
    """A new reading of the GPUs, or of why there are none."""

    gpus: GpuSnapshot
    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing but time has passed: something may be due."""

    at: float


@dataclass(frozen=True, slots=True)
class Drain:
    """The service is ending: nothing new, let what runs run out."""

    at: float


@dataclass(frozen=True, slots=True)
class Close:
    """The drain is over: stop every server now."""

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
    | SlotsCounted
    | Exited
    | MemoryRead
    | ReadingFailed
    | GpusPolled
    | Tick
    | Drain
    | Close
)

# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start this server; answer with Spawned, Projected, Progress, Ready, Measured and at last Exited."""

    server: Server


class StopReason(enum.StrEnum):
    """Why a server is ended; a label of the metrics."""

    IDLE = "idle"  # nobody used it for its ttl; or, of several, for as long as one that is not needed stays
    ROOM = "room"  # another model needs what it holds
    DRAINED = "drained"  # for another model, or another file of its name, after it has answered what it had to
    UNLOAD = "unload"  # ordered, and it has answered what it had to
    STALLED = "stalled"  # its load showed no progress
    TOO_LARGE = "too_large"  # it said that it needs more than there is room for
    ABANDONED = "abandoned"  # it generates for clients that have left
    SHUTDOWN = "shutdown"

    @property
    def saves(self) -> bool:
        """Whether what it computed may be kept first. Not where it does not do what it is told: that ends now."""
        return self not in (StopReason.STALLED, StopReason.TOO_LARGE, StopReason.ABANDONED)


@dataclass(frozen=True, slots=True)
class Stop:
    """End this server; answer with Exited when it is reaped."""

    server: int
    why: StopReason
    detail: str = ""  # for the log


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may use a slot of this server until it releases it."""

    ticket: int
    server: int


@dataclass(frozen=True, slots=True)
class Done:
    """What a Load or an Unload asked for is so."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request does not get what it waits for."""

    ticket: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """Read the machine's memory now; answer with MemoryRead or ReadingFailed."""


@dataclass(frozen=True, slots=True)
class ReadGpus:
    """Read the GPUs now; GpusPolled comes when it comes."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Keep what was decided about a model's place, and why."""

    model: str
    decision: Decision
    evict: tuple[str, ...]  # names of the servers that leave for it


@dataclass(frozen=True, slots=True)
class CountSlots:
    """Ask this server how many of its slots are busy; answer with SlotsCounted."""

    server: int


Effect = Spawn | Stop | Grant | Done | Refuse | ReadMemory | ReadGpus | Decided | CountSlots
