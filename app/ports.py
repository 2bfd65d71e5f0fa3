"""Ports: what the HTTP layer asks of the machine, and the values that cross the border.

`app` may not import `workers`, so the routes know the pool, the catalogue and the rest by the protocols below. Each
names the class that implements it; the composition root (workers/runtime.py) is type-checked against them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from app.entities.configuration import ConfigurationState
from app.entities.gpu import GpuSnapshot
from app.entities.key import ApiKey
from app.entities.model import Model
from app.errors import ProxyError
from app.request_body.content import BodyContent, BodyFormat
from app.use_cases.reporting.decisions import DecisionRecord
from app.use_cases.reporting.reload_report import ReloadReport
from app.use_cases.scheduling.events import Ending
from app.use_cases.scheduling.pool_state import PoolState

# --- models and what is known of them ------------------------------------------------------------------


class ModelCatalog(Protocol):
    """Models by name (workers.catalog.catalog.Catalog)."""

    @property
    def knows_replicas(self) -> bool:
        """Whether any model may have several servers."""

    def find(self, name: str) -> Model:
        """The model of that name or alias. Raises ModelNotFound."""

    def models(self) -> list[Model]:
        """All of them, by name."""

    def servable(self, model: Model) -> Model:
        """The model, its header checked. Raises InvalidModelFile."""

    def has_replicas(self, names: Sequence[str]) -> bool:
        """Whether every one of these models may have several servers."""

    def reload(self) -> None:
        """Scan the folders again."""


class Snapshots(Protocol):
    """The published state, each part frozen (workers.telemetry.store.StateStore). Read it without a lock."""

    @property
    def pool(self) -> PoolState: ...
    @property
    def gpus(self) -> GpuSnapshot: ...
    @property
    def pins(self) -> tuple[str, ...]:
        """Why the pinned models do not fit together; empty if they do."""

    @property
    def configuration(self) -> ConfigurationState: ...
    @property
    def decisions(self) -> tuple[DecisionRecord, ...]:
        """The last ones, newest last."""


class Reloader(Protocol):
    """Reloads the configuration (workers.reload.ConfigurationReload)."""

    def reload(self) -> ReloadReport:
        """Read the sources again and apply what changed. Raises InvalidConfiguration, Draining or Overloaded; nothing
        changed then, except that model files were searched."""


# --- bodies of requests --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BodyFile:
    """A large body in a file of memory, whose bytes are moved without Python's lock."""

    fd: int
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes


class RequestBody(Protocol):
    """The body of one request (workers.request_bodies.held_body.HeldBody)."""

    @property
    def data(self) -> bytes | BodyFile: ...
    def __len__(self) -> int: ...

    def content(self, form: BodyFormat) -> BodyContent:
        """What it says. Raises InvalidRequest."""

    def hash(self, *labels: str) -> str:
        """A cryptographic hash of these labels and the body."""

    def close(self) -> None:
        """Give its memory back. More than once does no harm."""


class Bodies(Protocol):
    """Receives bodies within `server.max_body` and `server.max_bodies` (workers.request_bodies.held_body)."""

    def receive(self, read: Callable[[int], bytes], announced_bytes: int) -> RequestBody:
        """The body, read to its end. Raises RequestTooLarge and Overloaded; close it otherwise."""

    def close(self) -> None:
        """End the process that reads large bodies."""


# --- clients -------------------------------------------------------------------------------------------


class WatchedClient(Protocol):
    """The client of one request (workers.clients.client_watch.ClientWatch)."""

    @property
    def is_disconnected(self) -> bool:
        """Whether the client is known to have disconnected; never False again."""

    def begin(self) -> None:
        """Watch from here on: what follows may take a while."""

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        """Call `action`, from any thread, when the client disconnects. None: nothing is left to undo."""

    def close(self) -> None:
        """Stop watching. Must come before the socket is closed."""


class Clients(Protocol):
    """Watches the sockets of clients (workers.clients.client_watch.ClientWatcher)."""

    def watch(self, client: socket.socket | None) -> WatchedClient:
        """A watch for the length of one request. None: there is no socket, and the client never disconnects."""


class Admission(Protocol):
    """The limit on concurrent inference requests (workers.clients.admission.AdmissionLimit)."""

    def acquire(self) -> bool:
        """Take a place; False if none is free. Never waits."""

    def release(self) -> None:
        """Give the place back."""


class RateLimits(Protocol):
    """Requests per minute of each key (workers.clients.admission.KeyRateLimits)."""

    def take(self, key: ApiKey) -> float:
        """Count one request: 0.0 if it is allowed, else the seconds until the next one is."""


class TokenCounts(Protocol):
    """Tokens that each key has used today (workers.clients.daily_tokens.DailyTokens)."""

    def used(self, key: str) -> tuple[int, date]:
        """Tokens that the key of this name has used, and the UTC day on which it has."""

    def count(self, key: str, tokens: int) -> None:
        """Add to them."""


# --- servers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where a llama-server answers, and the API key it requires."""

    server: int
    model: str
    port: int
    api_key: str
    context_tokens: int = 0  # that one request may use; 0: as many as the model was trained with
    device: str = "cpu"  # "cuda:0,1": its GPUs, by NVML index


@dataclass(frozen=True, slots=True)
class Lease:
    """One request's slot on a server, until its SlotRequest ends."""

    address: Address
    waited_seconds: float


class SlotRequest(Protocol):
    """One request's wait for a slot, then its slot (workers.pool.pending_lease.PendingLease)."""

    def wait(self, seconds: float | None = None) -> Lease | None:
        """The slot; None if there was none within `seconds`. Raises the ProxyError of a rejected request."""

    def end(self, ending: Ending, keep_alive_seconds: float | None = None) -> None:
        """Cancel the wait or release the slot. `keep_alive_seconds`: idle time before the model is unloaded."""


class ServerPool(Protocol):
    """The llama-servers and their scheduler (workers.pool.pool.Pool)."""

    def acquire(
        self,
        model: Model,
        max_wait_seconds: float,
        client: WatchedClient,
        context_tokens: int | None = None,
        conversation: int | None = None,
        key: str = "",
        request_hash: str = "",
    ) -> SlotRequest:
        """Request a slot, which loads the model if necessary. Raises the ProxyError that makes waiting pointless.

        `key`: name of the client's API key; keys take turns where requests wait. `request_hash`: of all that the engine
        gets, and the key; "" for a request that is never blamed for the end of a server."""

    def load(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Load the model; returns once its llama-server is starting. Raises the ProxyError of a rejected load."""

    def unload(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Unload the model after its running requests; returns once its processes have ended."""

    def address(self, model: Model) -> Address | None:
        """Where the model answers now; None if it is not loaded. Takes no slot."""


# --- the request to a server and its answer ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What a llama-server is sent."""

    method: str
    target: str  # path and query, percent-encoded
    headers: Mapping[str, str]  # those of the client that may go on; Host and Authorization are the relay's
    body: bytes | BodyFile


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one answer, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


class ClientSocket(Protocol):
    """A client's socket that the worker lends for one answer (workers.gunicorn_worker.client_socket.DirectAnswer)."""

    @property
    def socket(self) -> socket.socket: ...

    def takes(self, length: int | None) -> bool:
        """Whether the head announces this length; None: whether it announces chunks."""

    def head(self) -> bytes:
        """The head of the answer; empty once it was sent."""

    def mark_sent(self) -> None:
        """The whole body was sent on the socket: the connection may carry another request."""


class EngineAnswer(Protocol):
    """An answer whose head has arrived (workers.relay.relay.UpstreamAnswer)."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those that go on to the client."""

    @property
    def is_stream(self) -> bool: ...

    def copy_body(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> bool:
        """Send the body; False if it was cut and the client was told. Raises ConnectionResetError otherwise."""

    def usage(self) -> TokenUsage | None:
        """The tokens, once the body was sent; None if the answer does not tell."""

    def estimated_tokens(self) -> int:
        """How many tokens of a stream arrived that ended before it told."""

    def close(self) -> None:
        """Give back its connection, whether or not the body was read."""


class RequestRelay(Protocol):
    """The data path to the servers (workers.relay.relay.Relay)."""

    def send(self, address: Address, request: UpstreamRequest, client: WatchedClient) -> EngineAnswer:
        """Send a request and wait for the head of its answer. Raises the ProxyError that says why there is none."""


# --- telemetry -----------------------------------------------------------------------------------------


class Refusals(Protocol):
    """Logs refused requests, repeated ones as a count (workers.telemetry.refusal_log.RefusalLog)."""

    def note(self, problem: ProxyError, address: str, now: float, details: str = "") -> None:
        """`now`: monotonic seconds."""


class RequestLog(Protocol):
    """One log line for each inference request (workers.telemetry.access_log.AccessLog)."""

    def note(
        self,
        status: int,
        path: str,
        model: str,
        requested_name: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        request_id: str,
    ) -> None:
        """`requested_name`: the model's name as the client wrote it."""


class Metrics(Protocol):
    """What /metrics shows (workers.telemetry.gauges.Gauges)."""

    def first_byte(self, model: str, seconds: float, waited_seconds: float) -> None:
        """The engine's answer has begun, so long after the request arrived, of which it waited for a slot."""

    def answered(
        self, endpoint: str, model: str, code: int, seconds: float, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """An inference request has ended."""

    def render(self, accept: str, models: Set[str] | None = None) -> tuple[bytes, str]:
        """The page in the format of an Accept header, and its content type. `models`: only what concerns these models
        and the machine; None: everything."""
