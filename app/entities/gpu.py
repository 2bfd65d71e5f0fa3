"""Gpu: one NVIDIA device at one moment. GpuSnapshot: the GPUs the service may use, or why there are none.

A GPU whose memory cannot be read is not usable: a snapshot lists it as missing, with the reason. Other values that a
GPU does not support are None; 0 is a measurement. A snapshot does not know its age: call `as_of(now)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from app.entities.launch import OwnEngine

OVERDUE_POLLS = 3  # a snapshot is overdue after this many missed polls
OVERDUE_SECONDS = 2.0  # plus the time a reading itself may take


class GpuState(StrEnum):
    """State of NVML, NVIDIA's management library."""

    UNREAD = "unread"  # the service has just started
    DISABLED = "disabled"  # by gpu.enabled, or by a CUDA_VISIBLE_DEVICES that names nothing
    OK = "ok"
    NO_PACKAGE = "no_package"  # nvidia-ml-py is not installed, although it is a dependency
    NO_LIBRARY = "no_library"  # libnvidia-ml is missing: no driver, or not visible in this container
    NO_DRIVER = "no_driver"  # the library is installed, the kernel module is not loaded
    NO_GPU = "no_gpu"  # both are present and report no GPU
    VERSION_MISMATCH = "version_mismatch"  # library and kernel module belong to different driver versions
    NOT_FOUND = "not_found"  # CUDA_VISIBLE_DEVICES names none of the GPUs present
    LOST = "lost"  # all GPUs seen before have disappeared
    HUNG = "hung"  # an NVML call has not returned
    ASLEEP = "asleep"  # closed while nothing uses the GPUs; the next load opens it (gpu.idle_close_seconds)
    FAILED = "failed"  # any other error


class NamedGpu(Protocol):
    """A GPU that settings may name."""

    @property
    def uuid(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...


def names_of(gpu: NamedGpu) -> tuple[str, ...]:
    """What settings may call this GPU, the most specific first: UUID, NVML's index, product name."""
    return gpu.uuid, str(gpu.index), gpu.name


@dataclass(frozen=True, slots=True)
class Program:
    """What a process that uses a GPU runs."""

    name: str
    parent_pid: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU or a MIG device. Identified by `uuid`; `index` may change after a reboot."""

    uuid: str
    index: int  # NVML's, in PCI bus order; a MIG device has the index of its GPU
    name: str
    pci_bus: str | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    used_bytes: int = 0  # by all processes and the driver: total less free
    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    compute_capability: tuple[int, int] | None = None
    is_mig: bool = False
    is_unified: bool = False  # it uses the machine's RAM as its memory: the sizes are RAM's
    drives_display: bool = False
    # pid -> bytes, None if NVML does not report them. In a container the pids may be the host's, or missing.
    processes: Mapping[int, int | None] | None = None
    # The same, of those that draw, like a desktop's; empty if NVML does not report them.
    graphics_processes: Mapping[int, int | None] = field(default_factory=dict)
    problem: str = ""  # why memory and processes could not be read just now: they are the last reading's
    memory_at: float | None = None  # monotonic seconds of that reading; None: of this one
    vulkan_number: int | None = None  # by which the engine selects it, if it has Vulkan and no CUDA
    is_vulkan_assumed: bool = False  # several GPUs are alike, and were told apart by their order

    @property
    def listed_processes(self) -> dict[int, int | None]:
        """All processes that NVML lists, by pid. One that computes and draws is in both of its lists, with all its
        memory."""
        return {**self.graphics_processes, **(self.processes or {})}

    @property
    def ram_bytes(self) -> int:
        """The RAM of the machine, if it uses that as its memory; else 0."""
        return self.total_bytes if self.is_unified else 0


@dataclass(frozen=True, slots=True)
class MissingGpu:
    """A GPU that has disappeared, that had failed before the service started, or whose memory cannot be read."""

    uuid: str  # "" if it was never read
    index: int
    name: str
    problem: str

    @property
    def label(self) -> str:
        return f"{self.name}, {self.uuid}" if self.uuid else self.name


@dataclass(frozen=True, slots=True)
class EngineView:
    """What one engine can use of the GPUs of a reading."""

    problem: str = ""  # why it can use none
    unusable: Mapping[str, str] = field(default_factory=dict)  # why it cannot use some, by UUID
    vulkan_numbers: Mapping[str, int] = field(default_factory=dict)  # by UUID, if it uses them through Vulkan
    assumed: frozenset[str] = frozenset()  # UUIDs of those whose number is assumed

    def numbered(self, gpu: Gpu) -> Gpu:
        """The GPU with this engine's number."""
        return replace(gpu, vulkan_number=self.vulkan_numbers.get(gpu.uuid), is_vulkan_assumed=gpu.uuid in self.assumed)


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """Result of one NVML reading. Immutable; the next reading replaces it."""

    state: GpuState
    at: float  # time.monotonic() just before the reading
    gpus: tuple[Gpu, ...] = ()
    missing: tuple[MissingGpu, ...] = ()
    problem: str = ""  # why there are no GPUs, or what is wrong
    expected: str = ""  # evidence that GPUs should be present although none is; "" without any
    engine_problem: str = ""  # why the service's llama-server cannot use the GPUs
    # With engines that models have of their own: what each can use, the service's (None) too. `gpus` are those that one
    # of them can use, and have the numbers of the service's.
    views: Mapping[OwnEngine | None, EngineView] = field(default_factory=dict)
    driver_version: str = ""
    cuda_version: str = ""  # newest version the driver supports
    answered_at: float | None = None  # when NVML last listed its GPUs
    errors: Mapping[str, int] = field(default_factory=dict)  # by NVML error name, since the service started
    programs: Mapping[int, Program] = field(default_factory=dict)  # by pid, of the processes on the GPUs
    poll_seconds: float | None = None  # until the next reading; None: none is expected

    def as_of(self, now: float) -> GpuSnapshot:
        """This snapshot as seen at `now` (monotonic seconds): HUNG once the next reading is overdue."""
        if self.overdue_at is None or now < self.overdue_at:
            return self
        problem = f"NVML has not responded for {now - self.at:.0f} s; GPU data is that old"
        return replace(self, state=GpuState.HUNG, problem=problem)

    def seen_by(self, engine: OwnEngine | None) -> GpuSnapshot:
        """This snapshot as one of the engines sees it: without the GPUs that it cannot use."""
        view = self.views.get(engine)
        if view is None:
            return self
        usable = self.without(view.unusable)
        gpus = tuple(view.numbered(gpu) for gpu in usable.gpus)
        return replace(usable, gpus=gpus, engine_problem=view.problem, views={})

    @property
    def has_engine_for_gpus(self) -> bool:
        """Whether an engine can use GPUs, the service's or a model's own."""
        return not self.engine_problem or any(not view.problem for view in self.views.values())

    @property
    def has_usable_gpu(self) -> bool:
        """Whether models can be placed on a GPU: what health, placements and launches go by. Ask the snapshot as of
        now."""
        return self.state is GpuState.OK and bool(self.gpus) and self.has_engine_for_gpus

    @property
    def uses_vulkan(self) -> bool:
        """Whether the engine uses GPUs through Vulkan."""
        return any(gpu.vulkan_number is not None for gpu in self.gpus)

    def read_at(self, uuid: str) -> float:
        """When the memory of a GPU was read, in monotonic seconds: earlier than `at` if that failed this time."""
        gpu = next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)
        return self.at if gpu is None or gpu.memory_at is None else gpu.memory_at

    def without(self, problems: Mapping[str, str]) -> GpuSnapshot:
        """This snapshot with some GPUs missing, for these reasons (by UUID)."""
        unusable = tuple(
            MissingGpu(gpu.uuid, gpu.index, gpu.name, problems[gpu.uuid]) for gpu in self.gpus if gpu.uuid in problems
        )
        left = tuple(gpu for gpu in self.gpus if gpu.uuid not in problems)
        return replace(self, gpus=left, missing=(*self.missing, *unusable))

    def asleep(self) -> GpuSnapshot:
        """This snapshot from when NVML is closed: without what lasts only a moment, and no reading is expected."""
        gpus = tuple(
            replace(
                gpu,
                utilization_percent=None,
                temperature_celsius=None,
                power_watts=None,
                processes=None,
                graphics_processes={},
            )
            for gpu in self.gpus
        )
        return replace(self, state=GpuState.ASLEEP, gpus=gpus, poll_seconds=None)

    def as_awake(self) -> GpuSnapshot:
        """The same, with the last readings of GPUs that are asleep: for questions about the machine without models."""
        return replace(self, state=GpuState.OK) if self.state is GpuState.ASLEEP else self

    @property
    def overdue_at(self) -> float | None:
        """When the next reading is overdue, in monotonic seconds; None: none is expected."""
        return None if self.poll_seconds is None else self.at + OVERDUE_POLLS * self.poll_seconds + OVERDUE_SECONDS

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one sentence each. A machine that never had GPUs has no problem."""
        lost = (f"GPU {each.index} ({each.label}): {each.problem}" for each in self.missing)
        others = (*([self.engine_problem] if self.engine_problem else []), *lost)
        if self.state is GpuState.HUNG or self.state is GpuState.NOT_FOUND:
            return (self.problem, *others)
        if self.state in (GpuState.OK, GpuState.ASLEEP, GpuState.DISABLED, GpuState.UNREAD):
            return others
        return (f"no GPU: {self.problem}; {self.expected}", *others) if self.expected else others


NOT_READ = GpuSnapshot(GpuState.UNREAD, at=0.0, problem="the GPUs have not been read yet")
