"""The recorded rows: bench/data/vram/rows/ARCHITECTURE.csv, and recorded.json with the engine that reported them.

A row is one start of llama-server and what it takes. `devices` is STAND_IN_CUDA's "COUNT:MIB,MIB", "0:0" without a GPU.
The figures are MiB, of several devices separated by ";". `args` name other files as SHAPE.QUANT.gguf. `draft`: on each
device that the draft model or MTP uses, "CUDA0=WEIGHTS/CONTEXT/COMPUTE"; `projector` and `adapters`: "CUDA0=MIB".
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "vram"
ROWS = DATA / "rows"
RECORDED = DATA / "recorded.json"
MIB = 1024**2
HOST = "host"

Items = tuple[float, float, float]  # weights, context, compute, in MiB


@dataclass(frozen=True, slots=True)
class Start:
    """A start of llama-server."""

    set: str  # which rows it was made with: "truth2"
    shape: str
    quant: str
    devices: str
    args: str

    @property
    def device_count(self) -> int:
        return int(self.devices.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Figures:
    """What it takes, by device and `host`."""

    devices: Mapping[str, Items] = field(default_factory=dict)
    draft: Mapping[str, Items] = field(default_factory=dict)
    projector: Mapping[str, float] = field(default_factory=dict)
    adapters: Mapping[str, float] = field(default_factory=dict)
    error: str = ""  # why it does not start


@dataclass(frozen=True, slots=True)
class Recorded:
    """The engine that the rows were made with."""

    version: str  # of xllamacpp
    architectures: tuple[str, ...]  # that it knows

    @property
    def build(self) -> str:
        """llama.cpp's build number."""
        return self.version.rpartition(".")[2]


COLUMNS = (
    *("set", "shape", "quant", "devices", "model_mib", "context_mib", "compute_mib"),
    *("host_mib", "draft", "projector", "adapters", "error", "args"),
)


def recorded() -> Recorded:
    found = json.loads(RECORDED.read_text())
    return Recorded(found["version"], tuple(found["architectures"]))


def write_recorded(said: Recorded) -> None:
    RECORDED.write_text(json.dumps(asdict(said), indent=1) + "\n")


def read_all(folder: Path = ROWS) -> Iterator[tuple[Start, Figures]]:
    """Every recorded row, by architecture."""
    for rows in read_by_architecture(folder).values():
        yield from rows


def read_by_architecture(folder: Path = ROWS) -> dict[str, list[tuple[Start, Figures]]]:
    return {file.stem: list(read_rows(file)) for file in sorted(folder.glob("*.csv"))}


def read_starts(file: Path) -> list[Start]:
    """Of a table that has these columns, and any others."""
    with open(file, newline="") as lines:
        return list(map(_start, csv.DictReader(lines)))


def read_rows(file: Path) -> Iterator[tuple[Start, Figures]]:
    with open(file, newline="") as lines:
        yield from map(_parsed, csv.DictReader(lines))


def write_rows(file: Path, rows: Iterable[tuple[Start, Figures]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_cells(*row) for row in rows)


def _cells(start: Start, figures: Figures) -> dict[str, str]:
    devices = [items for name, items in figures.devices.items() if name != HOST]
    named = zip(("model_mib", "context_mib", "compute_mib"), zip(*devices, strict=True), strict=False)
    return {
        **asdict(start),
        **{name: ";".join(map(_mib, values)) for name, values in named},
        "host_mib": _joined(figures.devices.get(HOST, ())),
        "draft": ";".join(f"{name}={_joined(items)}" for name, items in figures.draft.items()),
        "projector": ";".join(f"{name}={_mib(mib)}" for name, mib in figures.projector.items()),
        "adapters": ";".join(f"{name}={_mib(mib)}" for name, mib in figures.adapters.items()),
        "error": figures.error,
    }


def _joined(items: Iterable[float]) -> str:
    return "/".join(map(_mib, items))


def _mib(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _parsed(cells: dict[str, str]) -> tuple[Start, Figures]:
    start = _start(cells)
    if cells["error"]:
        return start, Figures(error=cells["error"])
    columns = (map(float, filter(None, cells[name].split(";"))) for name in ("model_mib", "context_mib", "compute_mib"))
    devices = {f"CUDA{index}": items for index, items in enumerate(zip(*columns, strict=True))}
    host = {HOST: _items(cells["host_mib"])}
    draft = {name: _items(text) for name, text in _pairs(cells["draft"])}
    sizes = ({name: float(text) for name, text in _pairs(cells[column])} for column in ("projector", "adapters"))
    return start, Figures(devices | host, draft, *sizes)


def _start(cells: Mapping[str, str]) -> Start:
    return Start(*(cells[name] for name in ("set", "shape", "quant", "devices", "args")))


def _items(text: str) -> Items:
    weights, context, compute = map(float, text.split("/"))
    return weights, context, compute


def _pairs(cell: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, cell.split(";")):
        name, _, text = part.partition("=")
        yield name, text


def figures_of(said: Mapping[str, Any]) -> Figures:
    """Of the tool's answer, which has bytes."""
    if "error" in said:
        return Figures(error=said["error"])
    items = ({name: _in_mib(each) for name, each in said.get(key, {}).items()} for key in ("devices", "draft"))
    sizes = ({name: each / MIB for name, each in said.get(key, {}).items()} for key in ("projector", "adapters"))
    return Figures(*items, *sizes)


def _in_mib(bytes_: list[int]) -> Items:
    weights, context, compute = (each / MIB for each in bytes_)
    return weights, context, compute
