"""EngineCheck: what an engine last said about the GPUs, and when it is asked again. EngineChecks: of all engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.launch import OwnEngine
from app.use_cases.placement.engine_gpus import EngineProbe, as_the_engine_sees_them
from app.use_cases.scheduling.backoff import doubled
from workers.gpu.driver_update import REPLACED, is_driver_replaced

# Until the engine is asked again while it cannot use some GPUs, doubled each time: the driver may not be ready yet.
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
MAX_RETRY_SECONDS_BESIDE_OTHERS = 600.0  # where it can use others: it opens all of them

AskEngine = Callable[[Sequence[Gpu], Callable[[], None]], EngineProbe]


def assume_usable(gpus: Sequence[Gpu], between: Callable[[], None]) -> EngineProbe:
    """For an engine that is not asked."""
    return EngineProbe()


class EngineCheck:
    """Used by the thread `gpus` alone, but for `order`."""

    def __init__(self, ask: AskEngine, build: Callable[[], str] = lambda: "") -> None:
        """`build` identifies the engine that would be asked now."""
        self._ask = ask
        self._build = build
        self._probed_build = ""
        self.is_replaced = False  # since it was asked
        self._last = EngineProbe()
        self._answered_at = 0.0
        self._failures = 0  # in a row
        self._uuids: set[str] = set()  # in the last reading
        self._is_ordered = False  # set by any thread

    def order(self) -> None:
        """From any thread: the engine is asked at the next reading."""
        self._is_ordered = True

    def is_due(self, gpus: GpuSnapshot, has_usable_gpu: bool) -> bool:
        """Whether the engine must be asked about this reading. `has_usable_gpu`: it could use some so far."""
        before, self._uuids = self._uuids, {gpu.uuid for gpu in gpus.gpus}
        is_ordered, self._is_ordered = self._is_ordered, False
        longest = MAX_RETRY_SECONDS_BESIDE_OTHERS if has_usable_gpu else MAX_RETRY_SECONDS
        retry_at = self._answered_at + doubled(RETRY_SECONDS, longest, self._failures - 1)
        is_retry_due = not self._last.is_fine and time.monotonic() >= retry_at
        self.is_replaced = self._build() != self._probed_build
        return bool(self._uuids) and (self._uuids != before or is_retry_due or is_ordered or self.is_replaced)

    def ask(self, gpus: GpuSnapshot, between: Callable[[], None]) -> None:
        """Takes seconds; `between` is called now and then."""
        self._probed_build = self._build()
        probe = self._ask(gpus.gpus, between)
        self._last = probe.with_cause(REPLACED) if probe.unusable and is_driver_replaced() else probe
        self._answered_at = time.monotonic()
        self._failures = 0 if probe.is_fine else self._failures + 1

    @property
    def last(self) -> EngineProbe:
        return self._last


class EngineChecks:
    """Used by the thread `gpus` alone, but for `order`."""

    def __init__(self, service: EngineCheck, own: Callable[[], Mapping[OwnEngine, EngineCheck]] = dict) -> None:
        """`own` returns those of engines that models have of their own now: the same ones each time."""
        self._service = service
        self._own = own
        self._due: list[EngineCheck] = []

    def order(self) -> None:
        """From any thread: the engines are asked at the next reading."""
        for check in self._all:
            check.order()

    @property
    def _all(self) -> list[EngineCheck]:
        return [self._service, *self._own().values()]

    @property
    def is_replaced(self) -> bool:
        """Whether one of them is another build than was asked."""
        return any(check.is_replaced for check in self._all)

    def are_due(self, gpus: GpuSnapshot, has_usable_gpu: bool) -> bool:
        """Whether some must be asked about this reading. `has_usable_gpu`: one could use some so far."""
        self._due = [check for check in self._all if check.is_due(gpus, has_usable_gpu)]
        return bool(self._due)

    def ask(self, gpus: GpuSnapshot, between: Callable[[], None]) -> None:
        """Ask those that are due, which takes seconds; `between` is called now and then."""
        for check in self._due:
            check.ask(gpus, between)

    def completed(self, gpus: GpuSnapshot) -> GpuSnapshot:
        """The reading, without the GPUs that no engine can use, and with what each can."""
        own = {engine: check.last for engine, check in self._own().items()}
        return as_the_engine_sees_them(gpus, self._service.last, own)
