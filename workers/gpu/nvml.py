"""Reads the GPUs from NVML, NVIDIA's management library. The only importer of pynvml (package nvidia-ml-py).

Every failure is a state of the snapshot, never an exception, and the next reading starts afresh. A call may hang in the
driver indefinitely: only a thread that nothing waits for may read.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.use_cases.placement.usable_gpus import visible_gpus
from workers.gpu.nvml_errors import LOST, UNLISTED, driver_errors, lost_gpu_errors, state_of_error, unavailable_errors

T = TypeVar("T")

REINIT_SECONDS = 10.0  # a GPU that reappeared may be listed only after NVML is initialized again


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU or MIG device, and the UUID of its physical card."""

    gpu: Gpu
    card: str


@dataclass(frozen=True, slots=True)
class _Listing:
    """All devices that NVML lists."""

    devices: list[_Device] = field(default_factory=list)
    cards: set[str] = field(default_factory=set)  # that responded, including those partitioned by MIG
    failures: dict[int, str] = field(default_factory=dict)  # by index: why it could not be read


class Nvml:
    """NVML for one thread: initialized once, and again after errors. Remembers every GPU it has listed."""

    def __init__(self, visible: str | None = None, reinit_seconds: float = REINIT_SECONDS) -> None:
        """`visible`: the service's CUDA_VISIBLE_DEVICES; None if it is not set."""
        self._visible = visible
        self._reinit_seconds = reinit_seconds
        self._initialized_at: float | None = None
        self._versions = ("", "")
        self._known: dict[str, _Device] = {}  # by UUID, as last read
        self._errors: Counter[str] = Counter()
        self._answered_at: float | None = None

    def read_gpus(self) -> GpuSnapshot:
        """All GPUs that the service may use, now. May hang in the driver."""
        at = time.monotonic()  # before the figures are read: events during the reading are newer than they are
        try:
            import pynvml as nv
        except ImportError as error:
            return GpuSnapshot(GpuState.NO_PACKAGE, at, problem=f"the package nvidia-ml-py is missing ({error})")
        try:
            self._initialize(nv, at)
            listing = self._list(nv)
        except nv.NVMLError as error:
            self._count(error)
            self._shut_down(nv)
            return self._snapshot(at, *state_of_error(nv, error))
        self._answered_at = at
        snapshot = self._snapshot_of(listing, at)
        if snapshot.missing and self._initialized_at is not None and at - self._initialized_at >= self._reinit_seconds:
            self._shut_down(nv)
        return snapshot

    # --- from a listing to a snapshot -------------------------------------------------------------------

    def _snapshot_of(self, listing: _Listing, at: float) -> GpuSnapshot:
        present = {device.gpu.uuid: device for device in listing.devices}
        # A MIG device whose card responds is not lost: the card was repartitioned.
        absent = {u: d for u, d in self._known.items() if u not in present and d.card not in listing.cards}
        self._known = present | absent
        visible = visible_gpus(self._visible, [device.gpu for device in self._known.values()])
        gpus = tuple(gpu for gpu in visible if gpu.uuid in present)
        missing = tuple(_missing_gpus([gpu for gpu in visible if gpu.uuid in absent], listing.failures))
        if self._visible is None and (gpus or missing):  # otherwise it may be one that is hidden from the service
            missing += tuple(_failed_since_start(listing.failures, list(absent.values())))
        if gpus:
            return self._snapshot(at, GpuState.OK, "", gpus, missing)
        if missing:
            return self._snapshot(at, GpuState.LOST, "all GPUs seen before are gone", gpus, missing)
        if listing.failures:
            return self._snapshot(at, GpuState.FAILED, next(iter(listing.failures.values())))
        if present:
            problem = f"CUDA_VISIBLE_DEVICES={self._visible} matches none of the {len(present)} GPUs present"
            return self._snapshot(at, GpuState.NOT_FOUND, problem)
        return self._snapshot(at, GpuState.NO_GPU, "the driver lists no GPU")

    def _snapshot(
        self,
        at: float,
        state: GpuState,
        problem: str,
        gpus: tuple[Gpu, ...] = (),
        missing: tuple[MissingGpu, ...] = (),
    ) -> GpuSnapshot:
        driver, cuda = self._versions
        return GpuSnapshot(
            state=state,
            at=at,
            gpus=gpus,
            missing=missing,
            problem=problem,
            driver_version=driver,
            cuda_version=cuda,
            answered_at=self._answered_at,
            errors=dict(self._errors),
        )

    # --- NVML ---------------------------------------------------------------------------------------

    def _initialize(self, nv: Any, at: float) -> None:
        if self._initialized_at is not None:
            return
        nv.nvmlInit()
        self._initialized_at = at
        cuda = self._query(nv, nv.nvmlSystemGetCudaDriverVersion)
        version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        self._versions = (self._query(nv, nv.nvmlSystemGetDriverVersion) or "", version)

    def _shut_down(self, nv: Any) -> None:
        """The next reading initializes NVML again."""
        if self._initialized_at is not None:
            self._initialized_at = None
            with contextlib.suppress(nv.NVMLError):
                nv.nvmlShutdown()

    def _list(self, nv: Any) -> _Listing:
        listing = _Listing()
        for index in range(nv.nvmlDeviceGetCount()):
            try:
                handle = nv.nvmlDeviceGetHandleByIndex(index)
                card = nv.nvmlDeviceGetUUID(handle)
                listing.devices.extend(list(self._devices_on(nv, handle, index, card)))
            except nv.NVMLError as error:
                if error.value in driver_errors(nv):
                    raise
                if error.value == nv.NVML_ERROR_NO_PERMISSION:
                    continue  # a GPU of the machine that is not passed to this container
                self._count(error)
                listing.failures[index] = LOST if error.value in lost_gpu_errors(nv) else f"{error}"
            else:
                listing.cards.add(card)
        return listing

    def _devices_on(self, nv: Any, handle: Any, index: int, card: str) -> Iterator[_Device]:
        """The card itself, or its MIG devices."""
        mode = self._query(nv, nv.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != nv.NVML_DEVICE_MIG_ENABLE:
            yield _Device(self._gpu(nv, handle, index, card), card)
            return
        for number in range(self._query(nv, nv.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = self._query(nv, nv.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            if part is not None:  # numbers may have gaps
                yield _Device(self._gpu(nv, part, index, nv.nvmlDeviceGetUUID(part), is_mig=True), card)

    def _gpu(self, nv: Any, handle: Any, index: int, uuid: str, is_mig: bool = False) -> Gpu:
        query = self._query
        # Not version 2 of the struct: it reports `reserved` separately, and total would exceed used + free.
        memory = query(nv, nv.nvmlDeviceGetMemoryInfo, handle)
        utilization = query(nv, nv.nvmlDeviceGetUtilizationRates, handle)
        milliwatts = query(nv, nv.nvmlDeviceGetPowerUsage, handle)
        pci = query(nv, nv.nvmlDeviceGetPciInfo, handle)
        return Gpu(
            uuid=uuid,
            index=index,
            name=query(nv, nv.nvmlDeviceGetName, handle) or "NVIDIA GPU",
            pci_bus=_text(pci.busId) if pci else None,
            total_bytes=memory.total if memory else None,
            free_bytes=memory.free if memory else None,
            used_bytes=memory.used if memory else None,
            utilization_percent=utilization.gpu if utilization else None,
            temperature_celsius=self._temperature(nv, handle),
            power_watts=milliwatts / 1000 if milliwatts is not None else None,
            compute_capability=query(nv, nv.nvmlDeviceGetCudaComputeCapability, handle),
            is_mig=is_mig,
            drives_display=query(nv, nv.nvmlDeviceGetDisplayActive, handle) == nv.NVML_FEATURE_ENABLED,
            processes=self._processes(nv, handle),
        )

    def _temperature(self, nv: Any, handle: Any) -> int | None:
        """By the current call, else by the one of older drivers, which CUDA 14 removes."""
        value = self._query(nv, nv.nvmlDeviceGetTemperatureV, handle, nv.NVML_TEMPERATURE_GPU)
        return (
            value
            if value is not None
            else self._query(nv, nv.nvmlDeviceGetTemperature, handle, nv.NVML_TEMPERATURE_GPU)
        )

    def _processes(self, nv: Any, handle: Any) -> dict[int, int | None] | None:
        listed = self._query(nv, nv.nvmlDeviceGetComputeRunningProcesses, handle)
        if listed is None:
            return None
        held: dict[int, int | None] = {}
        for process in listed:  # one entry for each CUDA context of a process
            so_far = held.get(process.pid, 0)
            used = process.usedGpuMemory
            held[process.pid] = None if used is None or so_far is None else so_far + used
        return held

    def _query(self, nv: Any, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's result; None if it is unavailable. Raises errors that mean the GPU or the driver is lost."""
        try:
            return function(*arguments)
        except nv.NVMLError as error:
            if error.value in lost_gpu_errors(nv) or error.value in driver_errors(nv):
                raise
            if error.value not in unavailable_errors(nv):
                self._count(error)
            return None

    def _count(self, error: Exception) -> None:
        self._errors[type(error).__name__.removeprefix("NVMLError_")] += 1


def _missing_gpus(absent: list[Gpu], failures: dict[int, str]) -> Iterator[MissingGpu]:
    """The absent GPUs with the reason. If a GPU failed at another index, each of the absent may be that one."""
    other_reason = next(iter(failures.values()), UNLISTED)
    for gpu in absent:
        yield MissingGpu(gpu.uuid, gpu.index, gpu.name, failures.get(gpu.index, other_reason))


def _failed_since_start(failures: dict[int, str], absent: list[_Device]) -> Iterator[MissingGpu]:
    """GPUs that have failed since before the service started: the failures that no absent GPU accounts for."""
    indices = sorted(set(failures) - {device.gpu.index for device in absent})
    for index in indices[: max(0, len(failures) - len({device.card for device in absent}))]:
        yield MissingGpu("", index, "unknown", failures[index])


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
