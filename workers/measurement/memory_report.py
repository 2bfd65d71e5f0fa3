"""Memory reports in llama-server's log: a projection before it loads, then every buffer it allocated.

For llama.cpp b11434 and xllamacpp 2026.10.11549. With `-fit on` llama-server computes its memory without allocating
anything and prints a breakdown in whole MiB: as a JSON line with --log-jsonl, and as a table at verbosity 4, where the
buffers follow during the load. It prints the breakdown again at exit, so breakdowns after the first buffer are ignored.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace

from app.entities.memory import Confidence, DeviceMemory, Estimate

MIB = 1024**2
MAX_MIB = 10**9  # more than any machine has: not a value of llama.cpp's
Row = tuple[str, DeviceMemory]  # (device or kind of buffer, its memory)
_COLUMNS = ("self", "model", "context", "compute")

# |   - CUDA0 (RTX 4090)   | 24576 = 23485 + (1090 =   762 +     256 +      72) +  0 |
# |   - Host               |                    26 =     1 +      20 +       4       |
# What may precede a message: time and level, which a line of another thread may have cut. Patterns are matched at the
# beginning of a line only: the rest may repeat text from a model file.
_PREFIX = r"(?:[\d.]+ )?(?:[A-Z] )?(?:srv\s+)?"
_MIB = r"(\d{1,9}(?:\.\d{1,6})?)"
_TABLE = re.compile(_PREFIX + r"\w*memory_breakdown_print: \|")
_ROW = re.compile(r"\|\s+- (\S+).*?(?<!\d)(\d{1,9}) =\s*(\d{1,9}) \+\s*(\d{1,9}) \+\s*(\d{1,9})(?!\d)")
_JSON_TYPE = "fit_memory_breakdown"
# load_tensors:        CUDA0 model buffer size =   762.81 MiB
_BUFFER = re.compile(
    rf"{_PREFIX}(\w+):\s+(\S+)\s+(model|KV|RS|LoRA|output|compute|DSV4 .*state)\s+buffer size\s*=\s*{_MIB}\s*MiB"
)
# weights and compute graph
_PROJECTOR = re.compile(rf"{_PREFIX}(?:\w+:\s+)?\[mtmd\] estimated worst-case memory usage of mmproj is {_MIB} MiB")
_PROJECTOR_GRAPH = "compute_meta"  # the function that reserves a projector's graph, counted by _PROJECTOR
_DEVICE = re.compile(
    r"(?!CPU)[A-Za-z]+(\d{1,2})(?!\d)"
)  # CUDA0; not CPU, CPU_Mapped, CPU_REPACK, CUDA_Host: these are RAM
_MAPPED = "_Mapped"  # pages of the file, which the kernel caches and evicts


@dataclass(frozen=True, slots=True)
class Loaded:
    """The buffers of a llama-server after the load."""

    need: Estimate  # without overhead, which no log reports
    unmapped_bytes: int  # of the host buffers: the part that the process itself holds


@dataclass(slots=True)
class _Buffers:
    """Bytes of one device by kind. A context's compute graph may be reserved again: the last size counts."""

    weights: int = 0
    mapped: int = 0
    context: int = 0
    output: int = 0
    compute: dict[int, int] = field(default_factory=dict)  # by context: a draft model has its own

    @property
    def compute_bytes(self) -> int:
        return self.output + sum(self.compute.values())


class EngineReport:
    """Parses the log of one start, line by line; `projected` and `loaded` return the results so far.

    `in_json`: the server logs with --log-jsonl, where the same data follows each table.
    """

    def __init__(self, in_json: bool = False) -> None:
        self._in_json = in_json
        self._rows: list[Row] = []  # of the current table
        self._breakdowns: list[list[Row]] = []
        self._projector_bytes: int | None = None
        self._buffers: defaultdict[str, _Buffers] = defaultdict(_Buffers)
        self._contexts = 0

    def read(self, line: str) -> bool:
        """Parse a line. True if it completes a projection; a draft model's follows its model's."""
        if not self._in_json and _TABLE.match(line):
            if found := _row(line):
                self._rows.append(found)
            return False
        # A line of another thread may split a table: its rest is then added like a separate breakdown.
        rows, self._rows = (_rows_of_json(line) if self._in_json and _JSON_TYPE in line else self._rows), []
        if found_projector := _PROJECTOR.match(line):
            self._projector_bytes = _bytes(found_projector[1])
        elif "buffer size" in line:
            self._read_buffer(line)
        if rows and not self._buffers:
            self._breakdowns.append(rows)
            return True
        return False

    def _read_buffer(self, line: str) -> None:
        found = _BUFFER.match(line)
        if found is None or _PROJECTOR_GRAPH in found[1]:
            return
        _, name, kind, size = found.groups()
        buffers, size_bytes = self._buffers[name], _bytes(size)
        if kind == "model" and name.endswith(_MAPPED):
            buffers.mapped += size_bytes
        elif kind in ("model", "LoRA"):
            buffers.weights += size_bytes
        elif kind == "compute":
            buffers.compute[self._contexts] = size_bytes
        elif kind == "output":  # one line per context, before that of its graph
            self._contexts += 1
            buffers.output += size_bytes
        else:  # sliding-window models have two KV caches
            buffers.context += size_bytes

    @property
    def projected(self) -> Estimate | None:
        """The projected memory without overhead, if known. Its margin covers the rounding to whole MiB."""
        return self._estimate(self._projection(), "as its llama-server projected it") if self._breakdowns else None

    def loaded(self) -> Loaded | None:
        """The allocated buffers; None until all are reported."""
        buffers = self._buffers.values()
        if not any(b.weights or b.mapped for b in buffers) or not any(b.compute for b in buffers):
            return None
        rows = [(name, self._memory(b)) for name, b in self._buffers.items()]
        need = self._estimate(rows, "as measured when it was loaded")
        return Loaded(need, need.host.total_bytes - sum(map(self._mapped_bytes, buffers)))

    @property
    def knows_projector(self) -> bool:
        return self._projector_bytes is not None

    def _projection(self) -> list[Row]:
        first, *others = self._breakdowns
        return [*first, *(row for other in others for row in _without_shared_weights(other, first))]

    def _memory(self, buffers: _Buffers) -> DeviceMemory:
        weights = buffers.weights + self._mapped_bytes(buffers)
        return DeviceMemory(weights, buffers.context, buffers.compute_bytes)

    def _mapped_bytes(self, buffers: _Buffers) -> int:
        """The part of a mapping that stays in use. The mapping spans the file from the first host tensor to the last,
        including GPU tensors in between; the projection for the host has only what is used."""
        if not buffers.mapped or not self._breakdowns:
            return buffers.mapped
        projected = sum(m.weights_bytes + m.margin_bytes for name, m in self._projection() if not _DEVICE.match(name))
        copied = sum(b.weights for name, b in self._buffers.items() if not _DEVICE.match(name))
        return min(buffers.mapped, max(0, projected - copied))

    def _estimate(self, rows: list[Row], note: str) -> Estimate:
        devices: defaultdict[int, DeviceMemory] = defaultdict(DeviceMemory)
        host = DeviceMemory()
        for name, memory in rows:
            if device := _DEVICE.match(name):
                devices[int(device[1])] = _sum(devices[int(device[1])], memory)
            else:
                host = _sum(host, memory)
        projector = DeviceMemory(weights_bytes=self._projector_bytes or 0)
        if devices:  # the projector is on the first GPU
            devices[min(devices)] = _sum(devices[min(devices)], projector)
        else:
            host = _sum(host, projector)
        in_order = tuple(devices[number] for number in range(max(devices, default=-1) + 1))
        return Estimate(in_order, host, Confidence.MEASURED, (note,))


def _row(line: str) -> Row | None:
    found = _ROW.search(line)
    return (found[1], _truncated(*map(int, found.groups()[1:]))) if found else None


def _rows_of_json(line: str) -> list[Row]:
    try:
        record = json.loads(line)
        rows = record["data"]["rows"] if record["type"] == _JSON_TYPE else []
        return [(str(row["name"]), _truncated(*(_checked_mib(row[column]) for column in _COLUMNS))) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _checked_mib(mib: object) -> int:
    if type(mib) is not int or not 0 <= mib < MAX_MIB:
        raise ValueError(mib)
    return mib


def _truncated(self_mib: int, model_mib: int, context_mib: int, compute_mib: int) -> DeviceMemory:
    """A row of a breakdown. The values are truncated to whole MiB, `self_mib` after the sum was computed."""
    cut_off = self_mib - model_mib - context_mib - compute_mib + 1 if self_mib else 0
    return DeviceMemory(model_mib * MIB, context_mib * MIB, compute_mib * MIB, margin_bytes=max(0, cut_off) * MIB)


def _without_shared_weights(rows: list[Row], first: list[Row]) -> list[Row]:
    """The rows of a draft model. A draft that is part of the model (MTP) reports the model's weights again."""
    weights = {name: memory.weights_bytes for name, memory in first}
    if all(weights.get(name) == memory.weights_bytes for name, memory in rows):
        return [(name, replace(memory, weights_bytes=0)) for name, memory in rows]
    return rows


def _sum(one: DeviceMemory, other: DeviceMemory) -> DeviceMemory:
    return DeviceMemory(
        one.weights_bytes + other.weights_bytes,
        one.context_bytes + other.context_bytes,
        one.compute_bytes + other.compute_bytes,
        one.overhead_bytes + other.overhead_bytes,
        one.margin_bytes + other.margin_bytes,
    )


def _bytes(mib: str) -> int:
    return round(float(mib) * MIB)
