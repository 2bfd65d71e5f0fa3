"""Placement: the GPUs and servers as a decision sees them, and the decision itself."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.gpu import NamedGpu, names_of
from app.entities.memory import Estimate
from app.entities.wait_cause import WaitCause

# Resources that all placements share, used as keys like the UUIDs of GPUs.
CPU = "cpu"  # available RAM
UNBOOKED_RAM = "unbooked_ram"  # total RAM less all bookings: mapped file pages count as available, yet they are needed
LOAD_QUOTA = "load_quota"  # servers that scheduling.max_loaded still permits
SHARED_RESOURCES = (CPU, UNBOOKED_RAM, LOAD_QUOTA)

DEFAULT_RESERVE_BYTES = 512 * 1024**2  # left free on each GPU
# Of the RAM that a GPU uses as its memory, for the system and other programs: without any, the kernel ends processes.
DEFAULT_RAM_RESERVE, MIN_RAM_RESERVE_BYTES = 0.1, 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU, with claims, the reserve and max_vram already subtracted from the usable bytes."""

    uuid: str
    name: str
    index: int  # NVML's
    total_bytes: int
    usable_bytes: int  # negative if more is claimed or reserved than is free
    releasing_bytes: int = 0  # held by stopping servers: usable soon
    draining_bytes: int = 0  # held by draining servers: usable once their requests are finished
    is_busy: bool = False  # its utilization exceeds gpu.busy_utilization
    is_mig: bool = False  # CUDA shows a process at most one MIG device
    is_unified: bool = False  # its memory is RAM: what is placed on it needs CPU and UNBOOKED_RAM
    reserve_bytes: int = 0  # left free on it
    drives_display: bool = False  # taken last: a desktop freezes when its GPU is full
    vulkan_number: int | None = None  # by which the engine selects it, if it has Vulkan and no CUDA


@dataclass(frozen=True, slots=True)
class Resident:
    """A llama-server that holds memory, as a decision sees it."""

    id: int
    model: str
    held_bytes: Mapping[str, int]  # released when it stops: by GPU's UUID, and of CPU, UNBOOKED_RAM and LOAD_QUOTA
    is_busy: bool = False  # has requests
    idle_seconds: float = 0.0
    is_pinned: bool = False  # never evicted
    priority: int = 0  # lower is evicted first
    is_in_min_residency: bool = False  # loaded more recently than min_residency_seconds: evicted last
    requests_per_second: float | None = None  # recent; None: not counted
    load_seconds: float | None = None  # expected duration of a reload; None: not measured
    is_loading: bool = False  # not evicted before it is ready
    is_surplus: bool = False  # a replica its model does not need: evicted before all others
    spare_cache_bytes: int = 0  # of RAM that it was given because it was free (prompt_cache: auto), filled or not


class Strategy(enum.StrEnum):
    """Which GPU a model gets if it fits on several."""

    PACK = "pack"  # the one with the least free memory, which keeps the others whole for large models
    SPREAD = "spread"  # the one with the most free memory


@dataclass(frozen=True, slots=True)
class PlacementConstraints:
    """A model's placement settings. GPUs are named by UUID, index or product name."""

    gpus: tuple[str, ...] = ()  # only these; empty: any
    exclude: tuple[str, ...] = ()
    min_gpus: int = 1
    max_gpus: int | None = None
    has_auto_context: bool = False  # the longest of a few context sizes that fits the empty machine
    has_auto_speculation: bool = False  # it may draft tokens with layers of its own, where there is room
    cpu_moe: bool = False  # experts may be kept in RAM
    partial_offload: bool = False  # some layers may be kept in RAM
    cpu_when_full: bool = False  # the whole model may run on the CPU


@dataclass(frozen=True, slots=True)
class Policy:
    """Placement settings that apply to all models."""

    strategy: Strategy = Strategy.PACK
    order: tuple[str, ...] = ()  # preferred GPUs, in this order
    long_idle_seconds: float = 60.0  # a server idle for this long is evicted rather than splitting a model


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """How much of each GPU models may use, and when a GPU counts as busy."""

    reserve_bytes: int | None = None  # left free on each GPU; None: the default
    max_vram_bytes: int | None = None
    busy_utilization: float = 0.9
    reserves: Mapping[str, int] = field(default_factory=dict)  # bytes left free on single GPUs, by a name of theirs

    def reserve_of(self, gpu: NamedGpu, ram_bytes: int = 0) -> int:
        """Bytes left free on this GPU. Of several names that mean it, the most specific counts.

        `ram_bytes`: the RAM of the machine, if the GPU uses that as its memory.
        """
        named = (self.reserves[name] for name in names_of(gpu) if name in self.reserves)
        return next(named, _default_reserve_bytes(ram_bytes) if self.reserve_bytes is None else self.reserve_bytes)

    def budget(self, reserve_bytes: int, total_bytes: int, free_bytes: int, booked_bytes: int) -> tuple[int, int]:
        """(capacity, usable) bytes of a GPU with that reserve: for models in total, and for further models.

        `usable` is negative if more is reserved than is free.
        """
        capacity, usable = total_bytes - reserve_bytes, free_bytes - reserve_bytes
        if self.max_vram_bytes is not None:
            capacity, usable = min(capacity, self.max_vram_bytes), min(usable, self.max_vram_bytes - booked_bytes)
        return max(0, capacity), usable

    def is_busy(self, utilization_percent: float) -> bool:
        return utilization_percent >= 100 * self.busy_utilization


def _default_reserve_bytes(ram_bytes: int) -> int:
    return max(MIN_RAM_RESERVE_BYTES, int(DEFAULT_RAM_RESERVE * ram_bytes)) if ram_bytes else DEFAULT_RESERVE_BYTES


class CpuFallback(enum.StrEnum):
    """When a model may run on the CPU of a machine that has GPUs, or should have some."""

    AUTO = "auto"  # if no GPU is expected, or the engine cannot use one
    NEVER = "never"
    WHEN_FULL = "when_full"  # also instead of waiting for memory, and when GPUs are lost


def shared_resources_needed(ram_bytes: int) -> dict[str, int]:
    """What a server with so much RAM needs of the resources that all placements share."""
    return {CPU: ram_bytes, UNBOOKED_RAM: ram_bytes, LOAD_QUOTA: 1}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one server runs: its GPUs in the server's order, and the options under which it needs what was booked."""

    uuids: tuple[str, ...]  # (CPU,) without GPUs
    layers: tuple[int, ...]  # on each GPU; the output counts as one layer
    n_gpu_layers: int
    ctx_size: int
    n_cpu_moe: int
    estimate: Estimate
    indices: tuple[int, ...] = ()  # NVML's, of the GPUs
    names: tuple[str, ...] = ()  # product names of the GPUs
    vulkan_numbers: tuple[int, ...] = ()  # of the GPUs, if the engine uses them through Vulkan
    full_ctx_size: int = 0  # the context if nobody else held memory, where ctx_size is shorter than that
    unified: tuple[str, ...] = ()  # UUIDs of the GPUs whose memory is RAM
    parks_idle_slots: bool = False  # its prompt cache holds all that idle slots may have to leave there
    speculation: str = ""  # the --spec-type that was added to the options because there is room; "": none was
    draft_head: str = ""  # path of the file that drafts tokens with it; "": the model itself, or nothing
    shares: tuple[int, ...] = ()  # of every tensor, on each GPU, where they are not split by layers

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """The --tensor-split that gives exactly `shares` or `layers`; empty for a single GPU."""
        return self.shares or (self.layers if len(self.uuids) > 1 else ())

    @property
    def is_on_cpu(self) -> bool:
        return self.uuids == (CPU,)

    @property
    def device(self) -> str:
        """As in response headers: `cpu`, or NVML's indices as `cuda:0,1`, or as `vulkan:0,1`."""
        if self.is_on_cpu:
            return CPU
        return f"{'vulkan' if self.vulkan_numbers else 'cuda'}:{','.join(map(str, self.indices))}"

    @property
    def prompt_cache_bytes(self) -> int:
        """Of the RAM that is booked: for conversations without a slot."""
        return self.estimate.host.prompt_cache_bytes

    @property
    def estimated_bytes(self) -> int:
        """On all devices together, without the prompt cache: what its llama-server is expected to report."""
        return sum(self.booked_bytes.values()) - self.prompt_cache_bytes

    @property
    def booked_bytes(self) -> Mapping[str, int]:
        """By GPU's UUID, and of RAM."""
        return self.booking_for(self.estimate)

    def booking_for(self, estimate: Estimate) -> dict[str, int]:
        """Bytes to book for `estimate` in this placement: by GPU's UUID, and of RAM."""
        on_gpus = () if self.is_on_cpu else zip(self.uuids, estimate.devices, strict=True)
        return {uuid: device.booked_bytes for uuid, device in on_gpus} | {CPU: estimate.host.booked_bytes}

    @property
    def needs(self) -> Mapping[str, int]:
        """Everything it needs: bytes by GPU's UUID, and of the shared resources."""
        needs = self.by_memory(self.booked_bytes)
        return {**needs, **shared_resources_needed(needs[CPU])}

    def by_memory(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """`sizes` by device, with those of GPUs whose memory is RAM added to RAM's."""
        if not self.unified:
            return {CPU: 0, **sizes}
        in_ram = sum(sizes.get(device, 0) for device in self.ram_devices)
        return {device: size for device, size in sizes.items() if device not in self.unified} | {CPU: in_ram}

    @property
    def ram_devices(self) -> tuple[str, ...]:
        """The devices on which it holds RAM."""
        return (CPU, *self.unified)

    @property
    def needed_bytes(self) -> int:
        """On its GPUs together, or of RAM if it has none."""
        booked = self.booked_bytes
        return sum(booked[uuid] for uuid in self.uuids)


def no_suggestion() -> str:
    return ""


class Outcome(enum.StrEnum):
    PLACE = "place"
    EVICT = "evict"  # after the named servers have stopped
    WAIT = "wait"  # the memory is held by busy, loading or stopping servers
    REFUSE = "refuse"
    STOP = "stop"  # a server that does not respond; never the answer to a request


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one model, and why."""

    outcome: Outcome
    reason: str  # one sentence
    needed_bytes: int  # of the placement, or of the smallest one possible
    placement: Placement | None = None
    awaited_placement: Placement | None = None  # with WAIT: the placement expected once the wait is over
    evict: tuple[int, ...] = ()  # server ids; with WAIT: servers to stop as soon as they are idle
    is_permanent: bool = False  # with REFUSE: it would not fit on an empty machine either
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # usable on each allowed GPU, or of RAM
    considered: tuple[str, ...] = ()  # each step with its numbers
    cause: WaitCause | None = None  # with WAIT; None: as the reason says
    awaited: tuple[int, ...] = ()  # with WAIT: ids of the servers that are in the way, as far as they are known
    restarts: tuple[int, ...] = ()  # of `evict`: only their prompt caches are in the way, so they are started again
    shorter_ctx_size: int = 0  # with WAIT for other processes: the context if they do not release memory in time
    suggest: Callable[[], str] = field(default=no_suggestion, compare=False, repr=False)

    @property
    def suggestion(self) -> str:
        """The closest setting that would fit, or "". Computed on demand: slower than the decision itself."""
        return self.suggest()
