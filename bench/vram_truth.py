"""llama.cpp's own memory figures, and the headers of its models: bench/data/vram, made by bench/truth.

`headers.json` holds metadata and tensors of every model and quantization: name, dimensions, type, blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import ModelOptions
from app.entities.memory import DeviceMemory, Estimate
from app.use_cases.estimate.companions import NO_COMPANIONS, Companions, adapter
from app.use_cases.estimate.projector import projector
from app.use_cases.launch.parsed_args import option_pairs, parse_model_options
from app.use_cases.model_shape.shape import model_shape
from bench.truth.table import DATA, HOST, MIB, Figures, Start, read_all
from workers.gguf.constants import TENSOR_TYPES

# The rows that the rules were fitted to, and those of further models that were drawn afterwards.
FITTED = ("truth", "truth2", "held_out")
LATER = ("truth3",)
# Models of further architectures, some of them made up where none is public: what is in their files is what the engine
# asks for.
OTHER_ARCHITECTURES = ("architectures",)
# Starts without a GPU.
ON_CPU = ("cpu",)
# Starts with a draft model, adapters, a projector, or options that keep parts of the model in RAM.
WITH_MORE = ("cpu-moe", "draft", "head", "lora", "mmproj", "mtp", "n-cpu-ffn", "n-cpu-moe", "ngram", "nkvo", "ot")

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


def rows(names: tuple[str, ...] = FITTED) -> Iterator[Row]:
    """Rows of these sets, by architecture."""
    return (row_of(start, figures) for start, figures in read_all() if start.set in names and not figures.error)


def pairs(estimate: Estimate, row: Row) -> list[tuple[DeviceMemory, Items]]:
    """What is estimated and what was measured of each device, and without any of the RAM."""
    return list(zip(estimate.devices, row.devices, strict=True)) if row.devices else [(estimate.host, row.host)]


def rows_with_more() -> Iterator[Row]:
    """Companions are counted with the device that has them: a projector's graph as its compute.

    Rows with --no-warmup are left out: the graph is then allocated with the first image.
    """
    return (row for row in rows(WITH_MORE) if "--no-warmup" not in row.args)


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


def row_of(start: Start, figures: Figures) -> Row:
    """With its companions counted where they are."""
    args = start.args.split()
    draft = [model_shape(each) for each in _named(args, "-md")]
    projectors = [projector(each) for each in _named(args, "--mmproj")]
    companions = Companions(
        draft=draft[0] if draft else None,
        adapters=tuple(map(adapter, _named(args, "--lora"))),
        projector=projectors[0] if projectors else None,
    )
    devices = {name: _summed(name, start, figures) for name in figures.devices}
    host = devices.pop(HOST)
    return Row(
        start.set,
        start.shape,
        start.quant,
        start.args,
        _options(args, start.devices),
        tuple(devices.values()),
        host,
        companions,
    )


def _summed(name: str, start: Start, figures: Figures) -> Items:
    """Bytes of the model and its companions on this device."""
    own, draft = figures.devices[name], figures.draft.get(name, (0.0, 0.0, 0.0))
    of_projector = figures.projector.get("CPU" if name == HOST else name, 0.0)
    weights_of_projector = _projector_mib(start) if of_projector and _has_projector(name, figures) else 0.0
    weights = own[0] + draft[0] + figures.adapters.get(name, 0.0) + weights_of_projector
    return weights * MIB, (own[1] + draft[1]) * MIB, (own[2] + draft[2] + of_projector - weights_of_projector) * MIB


def _has_projector(name: str, figures: Figures) -> bool:
    """Whether its weights are here: on a GPU, if there is one that has a part of it."""
    return name != HOST or set(figures.projector) == {"CPU"}


def _projector_mib(start: Start) -> float:
    (said,) = _named(start.args.split(), "--mmproj")
    return sum(tensor.size_bytes for tensor in said.tensors) / MIB


def _named(args: list[str], option: str) -> list[GgufHeader]:
    """Headers of the files that an option names as SHAPE.QUANT.gguf."""
    files = dict(option_pairs(args)).get(option, "")
    return [header(*name.removesuffix(".gguf").rsplit(".", 1)) for name in files.split(",") if name]


def _options(args: list[str], devices: str) -> ModelOptions:
    """`devices` is "COUNT:FREE,FREE": llama-server splits by free memory unless --tensor-split is given."""
    count, free = devices.split(":")
    shares = tuple(float(each) for each in free.split(","))
    options = parse_model_options(args)
    split = options.tensor_split or shares * (int(count) // len(shares))
    return replace(options, devices=int(count), tensor_split=split)
