"""Gpu: one NVIDIA device at one moment. GpuSnapshot: all that the service may use, or why there are none.

What a card does not support is None; 0 is a figure. A snapshot does not know how old it is: ask `as_of(now)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

LATE_POLLS = 3  # so many may be missed
LATE_SECONDS = 2.0  # and this beside: a reading takes its time, too


class GpuState(StrEnum):
    """How it is with NVML, the library that knows the GPUs."""

    UNREAD = "unread"  # the service has just started
    DISABLED = "disabled"  # by gpu.enabled, or by a CUDA_VISIBLE_DEVICES that names nothing
    OK = "ok"
    NO_PACKAGE = "no_package"  # nvidia-ml-py is not installed, although it belongs to us
    NO_LIBRARY = "no_library"  # the driver is not installed, or not here
    NO_DRIVER = "no_driver"  # the library is there, the kernel module is not
    NO_GPU = "no_gpu"  # both are there, and say that there is none
    VERSION_MISMATCH = "version_mismatch"  # library and kernel module are of different drivers
    NOT_FOUND = "not_found"  # there are GPUs, and none that CUDA_VISIBLE_DEVICES names
    LOST = "lost"  # all that were seen before are gone
    HUNG = "hung"  # NVML was asked, and has not answered
    FAILED = "failed"  # any other error


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a part of one that MIG made a device. Its `uuid` is its name; `index` may change with a reboot."""

    uuid: str
    index: int  # NVML's, which is the order on the PCI bus; a MIG device has its GPU's
    name: str
    pci_bus: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None  # by anybody, the driver included: total less free
    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    compute_capability: tuple[int, int] | None = None
    is_mig: bool = False
    # pid -> bytes; None for bytes that are not told. In a container the pids may be the host's, or missing.
    processes: Mapping[int, int | None] | None = None


@dataclass(frozen=True, slots=True)
class MissingGpu:
    """A GPU that was there before, while the others still are; or one that has failed since before the start."""

    uuid: str  # "" where it was never read
    index: int
    name: str
    problem: str

    @property
    def label(self) -> str:
        return f"{self.name}, {self.uuid}" if self.uuid else self.name


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """What a reading showed. Frozen; the next one replaces it whole."""

    state: GpuState
    at: float  # time.monotonic(), before the figures were read
    gpus: tuple[Gpu, ...] = ()
    missing: tuple[MissingGpu, ...] = ()
    problem: str = ""  # why there are none, or what is wrong
    expected: str = ""  # why there should be GPUs although there are none; "": nothing speaks for it
    engine_problem: str = ""  # why llama-server cannot use the GPUs that are there
    driver_version: str = ""
    cuda_version: str = ""  # the newest that the driver supports
    answered_at: float | None = None  # when NVML last listed its GPUs
    errors: Mapping[str, int] = field(default_factory=dict)  # by name, since the service started
    poll_seconds: float | None = None  # until the next reading; None: it is not waited for

    def as_of(self, now: float) -> GpuSnapshot:
        """What this snapshot is worth at `now`: HUNG once readings that were due did not come."""
        if self.overdue_at is None or now < self.overdue_at:
            return self
        problem = f"NVML has not answered for {now - self.at:.0f} s; what is said of the GPUs is as old"
        return replace(self, state=GpuState.HUNG, problem=problem)

    @property
    def overdue_at(self) -> float | None:
        """When the next reading is overdue; None: it is not waited for."""
        return None if self.poll_seconds is None else self.at + LATE_POLLS * self.poll_seconds + LATE_SECONDS

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, as sentences. A machine without GPUs that never had any is in order."""
        lost = (f"GPU {each.index} ({each.label}): {each.problem}" for each in self.missing)
        others = (*([self.engine_problem] if self.engine_problem else []), *lost)
        if self.state is GpuState.HUNG or self.state is GpuState.NOT_FOUND:
            return (self.problem, *others)
        if self.state in (GpuState.OK, GpuState.DISABLED, GpuState.UNREAD):
            return others
        return (f"no GPU: {self.problem}; {self.expected}", *others) if self.expected else others


NOT_READ = GpuSnapshot(GpuState.UNREAD, at=0.0, problem="the GPUs have not been read yet")
