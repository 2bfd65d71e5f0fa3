"""The GPU metrics of /metrics, from the last reading. While NVML hangs or is closed, values are left out
instead of repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.use_cases.placement.ledger import Ledger
from app.use_cases.scheduling.pool_state import PoolState
from workers.telemetry.store import StateStore

_PREFIX = "llama_smart_proxy_gpu_"
_LABELS = ["gpu", "uuid"]
_GAUGES: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
    ("memory_total_bytes", "Total GPU memory.", lambda gpu: gpu.total_bytes),
    ("memory_used_bytes", "GPU memory in use by all processes.", lambda gpu: gpu.used_bytes),
    ("memory_free_bytes", "Free GPU memory.", lambda gpu: gpu.free_bytes),
    ("memory_unified", "1 if the GPU's memory is the machine's RAM, else 0.", lambda gpu: float(gpu.is_unified)),
    ("utilization_ratio", "GPU utilization (0 to 1).", lambda gpu: _ratio(gpu.utilization_percent)),
    ("temperature_celsius", "GPU temperature.", lambda gpu: gpu.temperature_celsius),
    ("power_watts", "GPU power draw.", lambda gpu: gpu.power_watts),
)


class GpuGauges(Collector):
    """The series of a GPU end with it; a value that a GPU does not support has no series."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        pool = self._store.pool
        snapshot = pool.gpus.as_of(time.monotonic())
        is_current = snapshot.state not in (GpuState.HUNG, GpuState.ASLEEP)
        current = snapshot if is_current else replace(snapshot, gpus=())
        yield from _values(current.gpus)
        yield _claimed(current, pool)
        info = GaugeMetricFamily(f"{_PREFIX}info", "GPU metadata.", labels=[*_LABELS, "name", "pci_bus"])
        for gpu in snapshot.gpus:
            info.add_metric([*_labels(gpu), gpu.name, gpu.pci_bus or ""], 1)
        yield info
        missing = GaugeMetricFamily(
            f"{_PREFIX}missing",
            "1 for a GPU that is not used: it has disappeared, cannot be read, or is set aside because loads failed.",
            labels=_LABELS,
        )
        for gone in snapshot.missing:
            missing.add_metric([str(gone.index), gone.uuid], 1)
        yield missing
        state = GaugeMetricFamily(
            "llama_smart_proxy_nvml_state", "Current NVML state (1 for the active state).", labels=["state"]
        )
        for possible in GpuState:
            state.add_metric([possible], float(snapshot.state is possible))
        yield state
        errors = CounterMetricFamily("llama_smart_proxy_nvml_errors", "Errors returned by NVML.", labels=["error"])
        for error, count in snapshot.errors.items():
            errors.add_metric([error], count)
        yield errors
        if snapshot.answered_at is not None:
            read_at = time.time() - (time.monotonic() - snapshot.answered_at)
            name = "llama_smart_proxy_nvml_last_read_timestamp_seconds"
            yield GaugeMetricFamily(name, "Time of the last successful NVML reading.", read_at)


def _claimed(snapshot: GpuSnapshot, pool: PoolState) -> Metric:
    help_text = "GPU memory that loading servers have booked but not allocated yet."
    family = GaugeMetricFamily(f"{_PREFIX}memory_claimed_bytes", help_text, labels=_LABELS)
    ledger = Ledger(snapshot, pool.memory or MemoryReading(0, 0, 0.0), pool.servers, pool.limits.gpu_limits)
    for gpu in snapshot.gpus:
        family.add_metric(_labels(gpu), ledger.claimed_bytes(gpu.uuid))
    return family


def _values(gpus: tuple[Gpu, ...]) -> Iterator[Metric]:
    for name, help_text, value_of in _GAUGES:
        family = GaugeMetricFamily(_PREFIX + name, help_text, labels=_LABELS)
        for gpu in gpus:
            if (value := value_of(gpu)) is not None:
                family.add_metric(_labels(gpu), value)
        yield family


def _labels(gpu: Gpu) -> list[str]:
    return [str(gpu.index), gpu.uuid]


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100
