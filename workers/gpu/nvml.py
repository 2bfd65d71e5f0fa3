"""Reads the GPUs from NVML, NVIDIA's management library. The only importer of pynvml (package nvidia-ml-py).

Every failure is a state of the snapshot, never an exception, and the next reading starts afresh. A call may hang in the
driver indefinitely: only a thread that nothing waits for may read.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.use_cases.placement.usable_gpus import visible_gpus
from workers.gpu.device import Device, NvmlQuery, read_gpu
from workers.gpu.known_devices import KnownDevices, NvmlListing, failed_since_start
from workers.gpu.nvml_errors import LOST, driver_errors, lost_gpu_errors, state_of_error
from workers.gpu.programs import Programs
from workers.gpu.unified_memory import ListedSizes

REINIT_SECONDS = 10.0  # a GPU that reappeared may be listed only after NVML is initialized again


class Nvml:
    """NVML for one thread: initialized once, and again after errors. Remembers every GPU it has listed."""

    def __init__(
        self,
        visible: str | None = None,
        poll_seconds: float = 1.0,
        listed_memory: Callable[[str], int] = lambda uuid: 0,
        reinit_seconds: float = REINIT_SECONDS,
    ) -> None:
        """`visible`: the service's CUDA_VISIBLE_DEVICES; None if it is not set. `listed_memory`: see ListedSizes."""
        self._visible = visible
        self._listed_sizes = ListedSizes(listed_memory)
        self._known = KnownDevices(poll_seconds)
        self._reinit_seconds = reinit_seconds
        self._initialized_at: float | None = None
        self._versions = ("", "")
        self._errors: Counter[str] = Counter()
        self._programs = Programs()
        self._answered_at: float | None = None

    def read_gpus(self) -> GpuSnapshot:
        """All GPUs that the service may use, now. May hang in the driver."""
        at = time.monotonic()  # before the figures are read: events during the reading are newer than they are
        try:
            import pynvml as nv
        except ImportError as error:
            return GpuSnapshot(GpuState.NO_PACKAGE, at, problem=f"the package nvidia-ml-py is missing ({error})")
        query = NvmlQuery(nv, self._errors)
        try:
            self._initialize(query, at)
            listing = _list(query, at, partial(read_gpu, query, partial(self._listed_sizes.has_size_of_ram, now=at)))
        except nv.NVMLError as error:
            query.count(error)
            self._shut_down(nv)
            return self._without_listing(nv, error, at)
        self._answered_at = at
        snapshot = self._snapshot_of(listing)
        if snapshot.missing and self._initialized_at is not None and at - self._initialized_at >= self._reinit_seconds:
            self._shut_down(nv)
        return snapshot

    def close(self) -> None:
        """Close NVML until the next reading. May hang in the driver."""
        if self._initialized_at is not None:
            import pynvml as nv

            self._shut_down(nv)

    def _initialize(self, query: NvmlQuery, at: float) -> None:
        if self._initialized_at is not None:
            return
        query.nv.nvmlInit()
        self._initialized_at = at
        cuda = query(query.nv.nvmlSystemGetCudaDriverVersion)
        version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        self._versions = (query(query.nv.nvmlSystemGetDriverVersion) or "", version)

    def _shut_down(self, nv: Any) -> None:
        """The next reading initializes NVML again."""
        if self._initialized_at is not None:
            self._initialized_at = None
            with contextlib.suppress(nv.NVMLError):
                nv.nvmlShutdown()

    # --- from a listing to a snapshot -------------------------------------------------------------------

    def _without_listing(self, nv: Any, error: Any, at: float) -> GpuSnapshot:
        """With the last readings for a moment, unless the driver is gone."""
        state, problem = state_of_error(nv, error)
        if state is GpuState.FAILED and error.value not in driver_errors(nv):
            kept = self._snapshot_of(NvmlListing(at, failures=dict.fromkeys(self._known.indices, problem)))
            if kept.gpus:
                return kept
        return self._snapshot(at, state, problem)

    def _snapshot_of(self, listing: NvmlListing) -> GpuSnapshot:
        devices = self._known.update(listing)
        by_uuid = {device.gpu.uuid: device for device in devices}
        visible = [by_uuid[gpu.uuid] for gpu in visible_gpus(self._visible, [device.gpu for device in devices])]
        gpus = tuple(device.gpu for device in visible if not device.missing)
        missing = tuple(_missing(device) for device in visible if device.missing)
        if self._visible is None or not visible:  # otherwise it may be one that is hidden from the service
            absent = [device for device in devices if device.card not in listing.cards]
            missing += tuple(
                MissingGpu("", index, "unknown", why) for index, why in failed_since_start(listing.failures, absent)
            )
        if gpus:
            return self._snapshot(listing.at, GpuState.OK, "", gpus, missing)
        if visible and not any(device.card in listing.cards for device in visible):
            return self._snapshot(listing.at, GpuState.LOST, "all GPUs seen before are gone", gpus, missing)
        if missing:
            return self._snapshot(listing.at, GpuState.FAILED, missing[0].problem, gpus, missing)
        if devices:
            problem = f"CUDA_VISIBLE_DEVICES={self._visible} matches none of the {len(devices)} GPUs present"
            return self._snapshot(listing.at, GpuState.NOT_FOUND, problem)
        return self._snapshot(listing.at, GpuState.NO_GPU, "the driver lists no GPU")

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
            programs=self._programs.named({pid for gpu in gpus for pid in gpu.listed_processes}),
        )


def _missing(device: Device) -> MissingGpu:
    return MissingGpu(device.gpu.uuid, device.gpu.index, device.gpu.name, device.missing)


def _list(query: NvmlQuery, at: float, read: Callable[..., Gpu]) -> NvmlListing:
    nv, listing = query.nv, NvmlListing(at)
    for index in range(nv.nvmlDeviceGetCount()):
        try:
            handle = nv.nvmlDeviceGetHandleByIndex(index)
            card = nv.nvmlDeviceGetUUID(handle)
            listing.devices.extend([Device(gpu, card, at) for gpu in _gpus_on(query, read, handle, index, card)])
        except nv.NVMLError as error:
            if error.value in driver_errors(nv):
                raise
            if error.value == nv.NVML_ERROR_NO_PERMISSION:
                continue  # a GPU of the machine that is not passed to this container
            query.count(error)
            listing.failures[index] = LOST if error.value in lost_gpu_errors(nv) else f"{error}"
        else:
            listing.cards.add(card)
    return listing


def _gpus_on(query: NvmlQuery, read: Callable[..., Gpu], handle: Any, index: int, card: str) -> Iterator[Gpu]:
    """The card itself, or its MIG devices."""
    nv = query.nv
    mode = query(nv.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != nv.NVML_DEVICE_MIG_ENABLE:
        yield read(handle, index, card)
        return
    for number in range(query(nv.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = query(nv.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:  # numbers may have gaps
            yield read(part, index, nv.nvmlDeviceGetUUID(part), is_mig=True)
