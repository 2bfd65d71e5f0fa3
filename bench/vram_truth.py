"""llama.cpp's own memory figures (b11434, no_alloc) and the headers of its models, from bench/data/vram.

`headers.json` holds metadata and tensors of every model and quantization: name, dimensions, type, blocks.
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
from app.entities.launch import ModelOptions
from app.use_cases.estimate.companions import NO_COMPANIONS, Companions, adapter
from app.use_cases.estimate.projector import projector
from app.use_cases.launch.parsed_args import option_pairs, parse_model_options
from app.use_cases.model_shape.shape import model_shape
from workers.gguf.constants import TENSOR_TYPES

DATA = Path(__file__).with_name("data") / "vram"
MIB = 1024**2


Items = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured start: bytes of weights, context and compute, per device and in RAM."""

    set: str
    shape: str
    quant: str
    args: str
    options: ModelOptions
    devices: tuple[Items, ...]
    host: Items
    companions: Companions = NO_COMPANIONS


def rows(names: tuple[str, ...] = ("truth", "truth2", "held_out")) -> Iterator[Row]:
    """The rows the rules were fitted to, and `held_out`: further models of the same architectures, added afterwards."""
    return (_row(name, row) for name in names for row in _read(name))


def rows_with_more() -> Iterator[Row]:
    """Starts with a draft model, adapters, a projector, or options that keep parts of the model in RAM.

    A projector's graph counts as the device's compute. Rows with --no-warmup are left out: the graph is then allocated
    with the first image.
    """
    for row_data in _read("extra_truth"):
        if "--no-warmup" not in row_data["args"]:
            row = _row(row_data["kind"], row_data)
            yield _with_projector(_with_adapters(_with_draft(row, row_data), row_data), row_data)


def _read(name: str) -> Iterator[dict[str, str]]:
    with open(DATA / f"{name}.csv", newline="") as file:
        yield from (row for row in csv.DictReader(file) if not row["error"])


@cache
def header(shape: str, quant: str) -> GgufHeader:
    row_data = _headers()[f"{shape} {quant}"]
    metadata = {key: tuple(value) if isinstance(value, list) else value for key, value in row_data["metadata"].items()}
    lengths = {"tokenizer.ggml.tokens": row_data["vocabulary"]}
    return GgufHeader(metadata, lengths, tuple(_tensors(row_data["tensors"])))


def pairs_with_headers() -> list[tuple[str, str]]:
    """Every model and quantization with a header."""
    return [(shape, quant) for shape, _, quant in (name.rpartition(" ") for name in _headers())]


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
    devices, host = _items(row, ""), _items(row, "host_")[0]
    options = _options(row["args"].split(), row["dev"])
    return Row(name, row["shape"], row["quant"], row["args"], options, devices, host)


def _items(row: dict[str, str], prefix: str) -> tuple[Items, ...]:
    """The columns with this prefix, per device."""
    return tuple(zip(*(_bytes(row[f"{prefix}{item}_mib"]) for item in ("model", "context", "compute")), strict=True))


def _bytes(cell: str) -> list[float]:
    return [float(each or 0) * MIB for each in cell.split(";")]


def _with_draft(row: Row, row_data: dict[str, str]) -> Row:
    if not row_data["draft_devices"]:
        return row
    devices = list(row.devices)
    for name, items in zip(row_data["draft_devices"].split(";"), _items(row_data, "draft_"), strict=True):
        devices[int(name.removeprefix("CUDA"))] = _added(devices[int(name.removeprefix("CUDA"))], items)
    host = _added(row.host, _items(row_data, "draft_host_")[0])
    draft = [model_shape(each) for each in _named(row, "-md")]
    return replace(
        row, devices=tuple(devices), host=host, companions=replace(row.companions, draft=draft[0] if draft else None)
    )


def _with_adapters(row: Row, row_data: dict[str, str]) -> Row:
    if not row_data["lora_mib"]:
        return row
    sizes = zip(row.devices, _bytes(row_data["lora_mib"]), strict=True)
    adapters = tuple(map(adapter, _named(row, "--lora")))
    return replace(
        row,
        devices=tuple(_added(items, (size, 0, 0)) for items, size in sizes),
        companions=replace(row.companions, adapters=adapters),
    )


def _with_projector(row: Row, row_data: dict[str, str]) -> Row:
    if not row_data["mmproj_weights_mib"]:
        return row
    weights, ram = float(row_data["mmproj_weights_mib"]) * MIB, float(row_data["mmproj_host_mib"]) * MIB
    companions = replace(row.companions, projector=projector(_named(row, "--mmproj")[0]))
    if not row_data["mmproj_device_mib"]:
        return replace(row, host=_added(row.host, (weights, 0, ram - weights)), companions=companions)
    graph = float(row_data["mmproj_device_mib"].partition("=")[2]) * MIB - weights
    first = _added(row.devices[0], (weights, 0, graph))
    return replace(row, devices=(first, *row.devices[1:]), host=_added(row.host, (0, 0, ram)), companions=companions)


def _added(a: Items, b: Items) -> Items:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _named(row: Row, option: str) -> list[GgufHeader]:
    """Headers of the files that an option names as SHAPE.QUANT.gguf."""
    files = dict(option_pairs(row.args.split())).get(option, "")
    return [header(*name.removesuffix(".gguf").rsplit(".", 1)) for name in files.split(",") if name]


def _options(args: list[str], devices: str) -> ModelOptions:
    """`devices` is "COUNT:FREE,FREE": llama-server splits by free memory unless --tensor-split is given."""
    count, free = devices.split(":")
    shares = tuple(float(each) for each in free.split(","))
    options = parse_model_options(args)
    split = options.tensor_split or shares * (int(count) // len(shares))
    return replace(options, devices=int(count), tensor_split=split)
