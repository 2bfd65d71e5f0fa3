"""What is remembered of the loads of one model: measured memory, and the overheads that estimates lack."""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from app.entities.launch import EngineFacts, LoadMode
from app.entities.memory import DeviceMemory, Estimate
from app.entities.model import Model
from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES
from app.use_cases.launch.command_line import ANY_PORT, launch_plan, without_prompt_cache
from workers.measurement.gpu_overheads import measured_overheads

HOST = "host"  # the name of RAM among the names of GPU models
OVERHEADS = 5  # the last loads that determine an overhead
BASE_BYTES = 64 * 1024**2  # overhead of RAM until one is measured: about 20 MiB, and the vocabulary
_MEMORY_VARIABLES = ("LLAMA_ARG_", "GGML_")


@dataclass(frozen=True, slots=True)
class Start:
    """Everything that determines the memory of a start: file, command line, engine, and the GPUs in order."""

    key: str
    model: str  # its path
    engine: str  # EngineFacts.identity
    gpus: tuple[str, ...] = ()  # their models, as "NVIDIA GeForce RTX 4090"


@dataclass(frozen=True, slots=True)
class Row:
    """One load."""

    start: Start
    at: int  # Unix seconds
    is_measured: bool  # False: projected by llama-server before it loaded, overhead unknown
    need: Estimate


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """A snapshot of the history of one model with one build of the engine, and of the overheads of that build."""

    rows: Mapping[str, Row]  # by the start's key
    overheads: Mapping[str, int]  # bytes besides the buffers of this build, by GPU model, and of RAM (HOST)

    def estimate(self, start: Start) -> Estimate | None:
        """The measured memory of this start, or else the projected; None if it is new."""
        row = self.rows.get(start.key)
        return self.with_overheads(row.need, start.gpus, start.key) if row else None

    def with_overheads(self, need: Estimate, gpus: Sequence[str], key: str = "") -> Estimate:
        """`need` with missing overheads filled in: those of an earlier start with this key, else those of other starts
        on this machine, else (GPU) those in the table of `gpu_overheads`."""
        row = self.rows.get(key)
        own = dict(_overheads(row)) if row else {}
        devices = tuple(
            self._with_overhead(device, own, name, measured_overheads().get(name, GPU_OVERHEAD_BYTES))
            for name, device in zip(_names(gpus, need), need.devices, strict=False)
        )
        return replace(need, devices=devices, host=self._with_overhead(need.host, own, HOST, BASE_BYTES))

    def _with_overhead(self, memory: DeviceMemory, own: Mapping[str, int], name: str, assumed: int) -> DeviceMemory:
        overhead_bytes = memory.overhead_bytes or own.get(name) or self.overheads.get(name) or assumed
        return replace(memory, overhead_bytes=overhead_bytes)


NO_HISTORY = ModelHistory({}, {})


def start_of(model: Model, engine: EngineFacts, gpus: tuple[str, ...] = ()) -> Start:
    """The key of `model` in the history: equal for the same, unchanged file with the same settings.

    Derived from the command line itself, so that no option that affects memory can be forgotten. The model's name and
    secrets in its environment are excluded, and so is how its file is read: that changes from start to start, and not
    what is kept.
    """
    options = replace(model.launch.options, load_mode=LoadMode.AUTO)
    launch = without_prompt_cache(replace(model.launch, options=options))
    argv = launch_plan(replace(model, name="", launch=launch), engine, {}, api_key="", port=ANY_PORT).argv
    variables = sorted(item for item in model.launch.env.items() if item[0].upper().startswith(_MEMORY_VARIABLES))
    parts = (argv, variables, model.path, model.size_bytes, model.created, engine.identity, gpus)
    return Start(hashlib.sha256(repr(parts).encode()).hexdigest(), model.path, engine.identity, gpus)


def _names(gpus: Sequence[str], need: Estimate) -> Iterator[str]:
    """The model of each GPU; devices without a name are numbered."""
    yield from gpus
    yield from (f"device {number}" for number in range(len(gpus), len(need.devices)))


def overheads_of(rows: Iterable[Row]) -> dict[str, int]:
    """The (upper) median of the last few measured loads, so that a single outlier has no effect."""
    seen = defaultdict(list)
    for row in rows:
        if row.is_measured:
            for name, overhead in _overheads(row):
                seen[name].append(overhead)
    return {name: statistics.median_high(overheads[-OVERHEADS:]) for name, overheads in seen.items()}


def _overheads(row: Row) -> Iterator[tuple[str, int]]:
    devices = zip(_names(row.start.gpus, row.need), row.need.devices, strict=False)
    for name, memory in ((HOST, row.need.host), *devices):
        if memory.overhead_bytes:
            yield name, memory.overhead_bytes
