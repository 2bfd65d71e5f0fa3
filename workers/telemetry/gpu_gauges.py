"""What /metrics shows of the GPUs: a view of the last reading. Old figures are not shown as if they were new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.use_cases.placement.ledger import Ledger
from workers.telemetry.store import StateStore

_PREFIX = "llama_smart_proxy_gpu_"
_LABELS = ["gpu", "uuid"]
_FIGURES: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
    ("memory_total_bytes", "Memory of a GPU.", lambda gpu: gpu.total_bytes),
    ("memory_used_bytes", "Memory in use, by anybody.", lambda gpu: gpu.used_bytes),
    ("memory_free_bytes", "Memory not in use.", lambda gpu: gpu.free_bytes),
    ("utilization_ratio", "Share of the time in which a GPU computed.", lambda gpu: _ratio(gpu.utilization_percent)),
    ("temperature_celsius", "Temperature of a GPU.", lambda gpu: gpu.temperature_celsius),
    ("power_watts", "Power that a GPU draws.", lambda gpu: gpu.power_watts),
)


class GpuGauges(Collector):
    """A GPU that is gone leaves no series behind, and one that does not tell a figure has none for it."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        snapshot = self._store.gpus.as_of(time.monotonic())
        shown = replace(snapshot, gpus=()) if snapshot.state is GpuState.HUNG else snapshot
        yield from _figures(shown.gpus)
        yield self._claimed(shown)
        info = GaugeMetricFamily(f"{_PREFIX}info", "1; what a GPU is.", labels=[*_LABELS, "name", "pci_bus"])
        for gpu in snapshot.gpus:
            info.add_metric([*_named(gpu), gpu.name, gpu.pci_bus or ""], 1)
        yield info
        missing = GaugeMetricFamily(
            f"{_PREFIX}missing",
            "1 for a GPU that was here and is gone, or does not answer since the start.",
            labels=_LABELS,
        )
        for each in snapshot.missing:
            missing.add_metric([str(each.index), each.uuid], 1)
        yield missing
        state = GaugeMetricFamily("llama_smart_proxy_nvml_state", "1 for how it is with NVML.", labels=["state"])
        for known in GpuState:
            state.add_metric([known], float(snapshot.state is known))
        yield state
        errors = CounterMetricFamily("llama_smart_proxy_nvml_errors", "Errors that NVML returned.", labels=["error"])
        for error, count in snapshot.errors.items():
            errors.add_metric([error], count)
        yield errors
        if snapshot.answered_at is not None:
            read_at = time.time() - (time.monotonic() - snapshot.answered_at)
            name = "llama_smart_proxy_nvml_last_read_timestamp_seconds"
            yield GaugeMetricFamily(name, "When NVML last listed the GPUs.", read_at)

    def _claimed(self, snapshot: GpuSnapshot) -> Metric:
        about = "Memory that loading servers have yet to take."
        family = GaugeMetricFamily(f"{_PREFIX}memory_claimed_bytes", about, labels=_LABELS)
        pool = self._store.pool
        ledger = Ledger(snapshot, pool.memory or MemoryReading(0, 0, 0.0), pool.servers, pool.limits.gpu_limits)
        for gpu in snapshot.gpus:
            if gpu.free_bytes is not None:
                family.add_metric(_named(gpu), ledger.claimed_bytes(gpu.uuid))
        return family


def _figures(gpus: tuple[Gpu, ...]) -> Iterator[Metric]:
    for name, about, figure in _FIGURES:
        family = GaugeMetricFamily(_PREFIX + name, about, labels=_LABELS)
        for gpu in gpus:
            if (value := figure(gpu)) is not None:
                family.add_metric(_named(gpu), value)
        yield family


def _named(gpu: Gpu) -> list[str]:
    return [str(gpu.index), gpu.uuid]


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100
