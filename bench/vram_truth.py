"""llama.cpp's own memory figures (b11434, no_alloc) and the headers of its models, from bench/data/vram.

`headers.json` holds, for every shape and quantization, the metadata and the tensors: name, dimensions, type, blocks.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import MemoryOptions
from app.use_cases.memory_options import options_of
from workers.gguf_constants import TENSOR_TYPES

DATA = Path(__file__).with_name("data") / "vram"
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Row:
    """One measured start. Bytes per device and of the host, as weights, context, compute."""

    set: str
    shape: str
    quant: str
    args: str
    options: MemoryOptions
    devices: tuple[tuple[float, float, float], ...]
    host: tuple[float, float, float]


def rows(names: tuple[str, ...] = ("truth", "truth2")) -> Iterator[Row]:
    for name in names:
        with open(DATA / f"{name}.csv", newline="") as file:
            for row in csv.DictReader(file):
                if not row["error"]:
                    yield _row(name, row)


@cache
def header(shape: str, quant: str) -> GgufHeader:
    said = _headers()[f"{shape} {quant}"]
    metadata = {key: tuple(value) if isinstance(value, list) else value for key, value in said["metadata"].items()}
    lengths = {"tokenizer.ggml.tokens": said["vocabulary"]}
    return GgufHeader(metadata, lengths, tuple(_tensors(said["tensors"])))


@cache
def _headers() -> dict[str, Any]:
    return dict(json.loads((DATA / "headers.json").read_text()))


def _tensors(rows: list[Any]) -> Iterator[Tensor]:
    for name, dimensions, type_, *blocks in rows:
        for block in _numbers(blocks[0]) if blocks else (0,):
            yield Tensor(name.replace("{}", str(block)), tuple(dimensions), type_, _size(dimensions, type_))


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _size(dimensions: list[int], type_: str) -> int:
    _, values, size = next(each for each in TENSOR_TYPES.values() if each[0] == type_)
    return prod(dimensions) // values * size


def _row(name: str, row: dict[str, str]) -> Row:
    columns = [[float(x) * MIB for x in row[f"{item}_mib"].split(";")] for item in ("model", "context", "compute")]
    host = tuple(float(row[f"host_{item}_mib"]) * MIB for item in ("model", "context", "compute"))
    devices = tuple(zip(*columns, strict=True))
    options = _options(row["args"].split(), row["dev"])
    return Row(name, row["shape"], row["quant"], row["args"], options, devices, host)


def _options(args: list[str], devices: str) -> MemoryOptions:
    """`devices` is "COUNT:FREE,FREE": llama-server splits by the free memory unless it is told otherwise."""
    count, free = devices.split(":")
    shares = tuple(float(each) for each in free.split(","))
    options = options_of(args)
    split = options.tensor_split or shares * (int(count) // len(shares))
    return replace(options, devices=int(count), tensor_split=split)
