"""Reads the GPUs from NVML, NVIDIA's management library. The only importer of pynvml (the package nvidia-ml-py).

Whatever goes wrong is a state of the snapshot, never an exception, and the next reading begins anew. A call may hang in
the driver for as long as it likes: only a thread that nobody waits for may read.
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

T = TypeVar("T")

REINIT_SECONDS = 10.0  # a card that came back may be listed only by an NVML that is initialised anew

LOST = "the driver has lost it: it fell off the bus, or must be reset (the kernel's log has an Xid)"
GONE = "it is not listed any more"
MISMATCH = (
    "the NVIDIA library and the kernel module are of different versions, as after an update of the driver: "
    "restart the machine, or load the new module and restart this service"
)


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU, and the UUID of the card that it is, or is a part of."""

    gpu: Gpu
    card: str


@dataclass(frozen=True, slots=True)
class _Listing:
    """What NVML said when it was asked for all it has."""

    devices: list[_Device] = field(default_factory=list)
    cards: set[str] = field(default_factory=set)  # that answered, also those that MIG divides
    failures: dict[int, str] = field(default_factory=dict)  # by index: why it could not be read


class Nvml:
    """NVML as one thread sees it: initialised once, and again after errors. What it has shown is remembered."""

    def __init__(self, visible: str | None = None, reinit_seconds: float = REINIT_SECONDS) -> None:
        """`visible`: the service's CUDA_VISIBLE_DEVICES; None when it has none."""
        self._visible = visible
        self._reinit_seconds = reinit_seconds
        self._initialized_at: float | None = None
        self._versions = ("", "")
        self._known: dict[str, _Device] = {}  # by UUID, as last read
        self._errors: Counter[str] = Counter()
        self._answered_at: float | None = None

    def read_gpus(self) -> GpuSnapshot:
        """All GPUs that the service may use, now. Takes as long as the driver likes."""
        at = time.monotonic()  # before the figures: a fact that comes while they are read is newer than they are
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
            return self._snapshot(at, *_meaning(nv, error))
        self._answered_at = at
        snapshot = self._of(listing, at)
        if snapshot.missing and self._initialized_at is not None and at - self._initialized_at >= self._reinit_seconds:
            self._shut_down(nv)
        return snapshot

    # --- what the listing means -------------------------------------------------------------------

    def _of(self, listing: _Listing, at: float) -> GpuSnapshot:
        there = {device.gpu.uuid: device for device in listing.devices}
        # A MIG device whose card answers is not lost: somebody has divided the card anew.
        absent = {u: d for u, d in self._known.items() if u not in there and d.card not in listing.cards}
        self._known = there | absent
        visible = visible_gpus(self._visible, [device.gpu for device in self._known.values()])
        gpus = tuple(gpu for gpu in visible if gpu.uuid in there)
        missing = tuple(_missing([gpu for gpu in visible if gpu.uuid in absent], listing.failures))
        if self._visible is None and (gpus or missing):  # else it may be one that the service was not given
            missing += tuple(_never_seen(listing.failures, list(absent.values())))
        if gpus:
            return self._snapshot(at, GpuState.OK, "", gpus, missing)
        if missing:
            return self._snapshot(at, GpuState.LOST, "all that were here are gone", gpus, missing)
        if listing.failures:
            return self._snapshot(at, GpuState.FAILED, next(iter(listing.failures.values())))
        if there:
            problem = f"CUDA_VISIBLE_DEVICES={self._visible} names none of the {len(there)} that are here"
            return self._snapshot(at, GpuState.NOT_FOUND, problem)
        return self._snapshot(at, GpuState.NO_GPU, "the driver lists none")

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
        cuda = self._ask(nv, nv.nvmlSystemGetCudaDriverVersion)
        version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        self._versions = (self._ask(nv, nv.nvmlSystemGetDriverVersion) or "", version)

    def _shut_down(self, nv: Any) -> None:
        """The next reading initialises anew."""
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
                listing.devices.extend(list(self._on_card(nv, handle, index, card)))
            except nv.NVMLError as error:
                if error.value in _general(nv):
                    raise
                if error.value == nv.NVML_ERROR_NO_PERMISSION:
                    continue  # a card of the machine that this container was not given
                self._count(error)
                listing.failures[index] = LOST if error.value in _lost(nv) else f"{error}"
            else:
                listing.cards.add(card)
        return listing

    def _on_card(self, nv: Any, handle: Any, index: int, card: str) -> Iterator[_Device]:
        """The card, or the devices that MIG made of it."""
        mode = self._ask(nv, nv.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != nv.NVML_DEVICE_MIG_ENABLE:
            yield _Device(self._gpu(nv, handle, index, card), card)
            return
        for number in range(self._ask(nv, nv.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = self._ask(nv, nv.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            if part is not None:  # numbers have holes
                yield _Device(self._gpu(nv, part, index, nv.nvmlDeviceGetUUID(part), is_mig=True), card)

    def _gpu(self, nv: Any, handle: Any, index: int, uuid: str, is_mig: bool = False) -> Gpu:
        ask = self._ask
        # Not the second version: without `reserved` apart, total is used and free together.
        memory = ask(nv, nv.nvmlDeviceGetMemoryInfo, handle)
        utilization = ask(nv, nv.nvmlDeviceGetUtilizationRates, handle)
        milliwatts = ask(nv, nv.nvmlDeviceGetPowerUsage, handle)
        pci = ask(nv, nv.nvmlDeviceGetPciInfo, handle)
        return Gpu(
            uuid=uuid,
            index=index,
            name=ask(nv, nv.nvmlDeviceGetName, handle) or "NVIDIA GPU",
            pci_bus=_text(pci.busId) if pci else None,
            total_bytes=memory.total if memory else None,
            free_bytes=memory.free if memory else None,
            used_bytes=memory.used if memory else None,
            utilization_percent=utilization.gpu if utilization else None,
            temperature_celsius=self._temperature(nv, handle),
            power_watts=milliwatts / 1000 if milliwatts is not None else None,
            compute_capability=ask(nv, nv.nvmlDeviceGetCudaComputeCapability, handle),
            is_mig=is_mig,
            processes=self._processes(nv, handle),
        )

    def _temperature(self, nv: Any, handle: Any) -> int | None:
        """By the call that stays, else by the one that older drivers have and CUDA 14 takes away."""
        now = self._ask(nv, nv.nvmlDeviceGetTemperatureV, handle, nv.NVML_TEMPERATURE_GPU)
        return now if now is not None else self._ask(nv, nv.nvmlDeviceGetTemperature, handle, nv.NVML_TEMPERATURE_GPU)

    def _processes(self, nv: Any, handle: Any) -> dict[int, int | None] | None:
        listed = self._ask(nv, nv.nvmlDeviceGetComputeRunningProcesses, handle)
        if listed is None:
            return None
        held: dict[int, int | None] = {}
        for each in listed:  # one process has a line for each of its contexts
            before = held.get(each.pid, 0)
            held[each.pid] = None if each.usedGpuMemory is None or before is None else before + each.usedGpuMemory
        return held

    def _ask(self, nv: Any, question: Callable[..., T], *about: Any) -> T | None:
        """None: that is not told here, for whatever reason. Raises what says that the card, or NVML itself, is lost."""
        try:
            return question(*about)
        except nv.NVMLError as error:
            if error.value in _lost(nv) or error.value in _general(nv):
                raise
            if error.value not in _not_told(nv):
                self._count(error)
            return None

    def _count(self, error: Exception) -> None:
        self._errors[type(error).__name__.removeprefix("NVMLError_")] += 1


def _missing(absent: list[Gpu], failures: dict[int, str]) -> Iterator[MissingGpu]:
    """Each with why it is: where a card has failed at another index than it had, all may be that one."""
    other = next(iter(failures.values()), GONE)
    for gpu in absent:
        yield MissingGpu(gpu.uuid, gpu.index, gpu.name, failures.get(gpu.index, other))


def _never_seen(failures: dict[int, str], absent: list[_Device]) -> Iterator[MissingGpu]:
    """Cards that have failed since before the service started: as many as cannot be those that are absent."""
    indices = sorted(set(failures) - {device.gpu.index for device in absent})
    for index in indices[: max(0, len(failures) - len({device.card for device in absent}))]:
        yield MissingGpu("", index, "unknown", failures[index])


def _meaning(nv: Any, error: Any) -> tuple[GpuState, str]:
    """What an error says that came instead of a listing."""
    return {
        nv.NVML_ERROR_LIBRARY_NOT_FOUND: (GpuState.NO_LIBRARY, "the NVIDIA driver's libnvidia-ml.so.1 is not here"),
        nv.NVML_ERROR_DRIVER_NOT_LOADED: (GpuState.NO_DRIVER, "the NVIDIA driver is not loaded"),
        nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (GpuState.VERSION_MISMATCH, MISMATCH),
        nv.NVML_ERROR_GPU_IS_LOST: (GpuState.LOST, LOST),
    }.get(error.value, (GpuState.FAILED, f"NVML says: {error}"))


def _general(nv: Any) -> tuple[int, ...]:
    """Errors that are about no card: NVML has to be initialised anew."""
    return (nv.NVML_ERROR_UNINITIALIZED, nv.NVML_ERROR_DRIVER_NOT_LOADED, nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH)


def _lost(nv: Any) -> tuple[int, ...]:
    return (nv.NVML_ERROR_GPU_IS_LOST, nv.NVML_ERROR_RESET_REQUIRED)


def _not_told(nv: Any) -> tuple[int, ...]:
    """Errors that are in order: a card, a driver or a container need not tell everything."""
    return (
        nv.NVML_ERROR_NOT_SUPPORTED,
        nv.NVML_ERROR_NO_PERMISSION,
        nv.NVML_ERROR_NOT_FOUND,
        nv.NVML_ERROR_FUNCTION_NOT_FOUND,
        nv.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nv.NVML_ERROR_INVALID_ARGUMENT,
        nv.NVML_ERROR_NO_DATA,
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
