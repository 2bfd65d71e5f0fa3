"""Device: one GPU or MIG device as NVML reports it. `nv` is the module pynvml, which nvml.py imports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from app.entities.gpu import Gpu
from workers.gpu.nvml_errors import driver_errors, lost_gpu_errors, unavailable_errors
from workers.gpu.unified_memory import uses_ram, with_ram

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or MIG device. `gpu.problem` says why its memory could not be read."""

    gpu: Gpu
    card: str  # UUID of its physical card
    at: float  # monotonic seconds just before it was read
    missing: str = ""  # why it cannot be used


class NvmlQuery:
    """Calls NVML functions; counts their errors, by name."""

    def __init__(self, nv: Any, errors: Counter[str]) -> None:
        self.nv = nv
        self._errors = errors

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's result; None if it is unavailable. Raises errors that mean the GPU or the driver is lost."""
        return self.with_error(function, *arguments)[0]

    def with_error(self, function: Callable[..., T], *arguments: Any) -> tuple[T | None, Any]:
        """The same, and the NVMLError for which it is unavailable."""
        try:
            return function(*arguments), None
        except self.nv.NVMLError as error:
            if error.value in lost_gpu_errors(self.nv) or error.value in driver_errors(self.nv):
                raise
            if error.value not in unavailable_errors(self.nv):
                self.count(error)
            return None, error

    def count(self, error: Exception) -> None:
        self._errors[type(error).__name__.removeprefix("NVMLError_")] += 1


def read_gpu(
    query: NvmlQuery, has_size_of_ram: Callable[[str], bool], handle: Any, index: int, uuid: str, is_mig: bool = False
) -> Gpu:
    """`has_size_of_ram`: whether the engine lists it so. Raises NVMLError if it or the driver is lost."""
    nv = query.nv
    gpu = _read_all_but_memory(query, handle, index, uuid, is_mig)
    # Not version 2 of the struct: it reports `reserved` separately, and total would exceed used + free.
    memory, error = query.with_error(nv.nvmlDeviceGetMemoryInfo, handle)
    is_unreported = not memory.total if memory else error.value == nv.NVML_ERROR_NOT_SUPPORTED
    gpu = _with_memory(gpu, memory, error)
    is_ram = uses_ram(gpu, is_unreported)
    if not is_ram and is_unreported and not is_mig:
        is_ram = _uses_ats(query, handle) or has_size_of_ram(uuid)
    return with_ram(gpu) if is_ram else gpu


def _uses_ats(query: NvmlQuery, handle: Any) -> bool:
    """Whether it shares the CPU's page tables, as Grace's GPUs do."""
    return bool(query(query.nv.nvmlDeviceGetAddressingMode, handle) == query.nv.NVML_DEVICE_ADDRESSING_MODE_ATS)


def _with_memory(gpu: Gpu, memory: Any, error: Any) -> Gpu:
    """With the memory that NVML reports, or with the problem."""
    if memory is None or not memory.total:
        return replace(gpu, problem=f"memory cannot be read: {error or 'it is reported as 0 bytes'}")
    return replace(gpu, total_bytes=memory.total, free_bytes=memory.free, used_bytes=memory.used)


def _read_all_but_memory(query: NvmlQuery, handle: Any, index: int, uuid: str, is_mig: bool) -> Gpu:
    nv = query.nv
    utilization = query(nv.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = query(nv.nvmlDeviceGetPowerUsage, handle)
    pci = query(nv.nvmlDeviceGetPciInfo, handle)
    return Gpu(
        uuid=uuid,
        index=index,
        name=query(nv.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        pci_bus=_text(pci.busId) if pci else None,
        utilization_percent=utilization.gpu if utilization else None,
        temperature_celsius=_temperature(query, handle),
        power_watts=milliwatts / 1000 if milliwatts is not None else None,
        compute_capability=query(nv.nvmlDeviceGetCudaComputeCapability, handle),
        is_mig=is_mig,
        drives_display=query(nv.nvmlDeviceGetDisplayActive, handle) == nv.NVML_FEATURE_ENABLED,
        processes=_processes(query, nv.nvmlDeviceGetComputeRunningProcesses, handle),
        graphics_processes=_processes(query, nv.nvmlDeviceGetGraphicsRunningProcesses, handle) or {},
    )


def _temperature(query: NvmlQuery, handle: Any) -> int | None:
    """By the current call, else by the one of older drivers, which CUDA 14 removes."""
    nv = query.nv
    value = query(nv.nvmlDeviceGetTemperatureV, handle, nv.NVML_TEMPERATURE_GPU)
    return value if value is not None else query(nv.nvmlDeviceGetTemperature, handle, nv.NVML_TEMPERATURE_GPU)


def _processes(query: NvmlQuery, function: Callable[[Any], Any], handle: Any) -> dict[int, int | None] | None:
    listed = query(function, handle)
    if listed is None:
        return None
    held: dict[int, int | None] = {}
    for process in listed:  # one entry for each CUDA context of a process
        so_far = held.get(process.pid, 0)
        used = process.usedGpuMemory
        held[process.pid] = None if used is None or so_far is None else so_far + used
    return held


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
