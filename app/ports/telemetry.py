"""Ports of logs and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Protocol

from app.entities.engine_load import Drafts, EngineLoad
from app.errors import ProxyError
from app.use_cases.reporting.last_hour import ActivityCounts
from app.use_cases.reporting.recent_requests import RequestRecord


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


class RecentActivity(Protocol):
    """The last requests and the last hour (workers.telemetry.activity.Activity)."""

    @property
    def version(self) -> object:
        """Another one after each request."""

    def note(self, record: RequestRecord) -> None:
        """A request has ended."""

    def records(self) -> tuple[RequestRecord, ...]:
        """The last requests, the newest first."""

    def last_hour(self) -> dict[str, ActivityCounts]:
        """What was counted, by model; "" for requests of no model."""


class Trends(Protocol):
    """The last ten minutes of each GPU (workers.telemetry.gpu_trends.GpuTrends)."""

    def trends(self, now: float) -> Mapping[str, Mapping[str, Sequence[float | None]]]:
        """By UUID and figure, in steps of five seconds, the oldest first; None: not read. `now`: monotonic seconds."""


class EngineLoads(Protocol):
    """What the busy llama-servers do, while anyone is viewing (workers.engine_metrics.slots.EngineSlots)."""

    @property
    def loads(self) -> Mapping[int, EngineLoad]:
        """By server id, as of the last second; replaced whole. A server that is idle, or not read yet, is not in it."""

    @property
    def drafts(self) -> Mapping[int, Drafts]:
        """By server id, as of the last reading of its metrics: of those for which tokens were drafted."""

    def view(self) -> None:
        """Somebody looks now. Never waits."""


class Metrics(Protocol):
    """What /metrics shows (workers.telemetry.gauges.Gauges)."""

    def first_byte(self, model: str, seconds: float, waited_seconds: float) -> None:
        """The engine's answer has begun, so long after the request arrived, of which it waited for a slot."""

    def answered(
        self, endpoint: str, model: str, code: int, seconds: float, prompt_tokens: int, completion_tokens: int, key: str
    ) -> None:
        """An inference request has ended. `key`: the name of its key, "" without one."""

    def render(self, accept: str, models: Set[str] | None = None, key: str = "") -> tuple[bytes, str]:
        """The page in the format of an Accept header, and its content type. `models`: only what concerns these models,
        the machine and the key of this name; None: everything."""
