"""Estimates of other projects for the same rows: xllamacpp by its own code, ollama by its published formula.

Bytes on one GPU that holds the whole model. Fixed reserves are excluded everywhere: our CUDA overhead, xllamacpp's
`memory_min` (512 MiB by default; 0 here), and ollama's 457 MiB, which is not part of its formula.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

import xllamacpp.memory

from app.entities.gguf import GgufHeader
from app.entities.launch import ModelOptions, Task
from bench.vram_truth import Row, header
from tests.helpers.gguf_bytes import Info, a_header
from workers.gguf.constants import TENSOR_TYPES

_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_LARGE_GPU = {"name": "CUDA", "memory_free": 2**50, "memory_min": 0}


def is_comparable(row: Row) -> bool:
    """Whether the row is a completion model on one GPU, without options that the other estimators do not have."""
    options = row.options
    is_whole = len(row.devices) == 1 and options.n_gpu_layers == 999
    return is_whole and options.task is Task.COMPLETION and not options.swa_full


def comparisons(rows: Iterable[Row]) -> Iterator[tuple[Row, dict[str, float]]]:
    """Every comparable row with each peer's estimate in bytes; a peer that fails on a row is missing from it."""
    by_file = sorted(filter(is_comparable, rows), key=_file)
    for (shape, quant), each in groupby(by_file, key=_file):
        said = _as_published(header(shape, quant))
        with tempfile.TemporaryDirectory() as folder, _parsed_once():
            path = Path(folder) / "model.gguf"
            write_sparse(path, said)
            for row in each:
                yield row, xllamacpp_bytes(path, row.options) | {"ollama": ollama_bytes(said, row.options)}


def _file(row: Row) -> tuple[str, str]:
    return row.shape, row.quant


def _as_published(said: GgufHeader) -> GgufHeader:
    """Add the head count of 0 that converters write for models without attention; our data lacks it."""
    return replace(said, metadata={f"{said.architecture}.attention.head_count": 0, **said.metadata})


def xllamacpp_bytes(path: Path, options: ModelOptions) -> dict[str, float]:
    """xllamacpp's estimate under its name; empty where it fails, as it does if metadata it relies on is missing.

    It sizes the compute graph by `batch_size`, where llama.cpp uses the ubatch; it knows one cache type for K and V.
    """
    try:
        estimate = xllamacpp.memory.estimate_gpu_layers(
            gpus=[_LARGE_GPU],
            model_path=str(path),
            projectors=[],
            context_length=options.ctx_size,
            batch_size=options.ubatch_size,
            num_parallel=options.parallel,
            kv_cache_type=options.cache_type_k,
        )
    except (ArithmeticError, LookupError, TypeError):
        return {}
    return {"xllamacpp": estimate.vram_size}


def ollama_bytes(said: GgufHeader, options: ModelOptions) -> int:
    """File size plus an f16 cache, with the smallest KV head count of any layer and embedding / heads values per head.

    Source: ollama, llm/llama_server.go, PredictServerVRAM (00f6d620). The file size is that of its tensors: our data
    lacks the text of the vocabulary, a few MiB.
    """
    heads = _each(said, "attention.head_count")
    kv_heads = min(_each(said, "attention.head_count_kv")) or 1
    head = _each(said, "embedding_length")[0] // max(heads) if max(heads) else 0
    layers = _each(said, "block_count")[0]
    return sum(tensor.size_bytes for tensor in said.tensors) + 2 * layers * kv_heads * head * options.ctx_size * 2


def _each(said: GgufHeader, key: str) -> tuple[Any, ...]:
    value = said.metadata.get(f"{said.architecture}.{key}", 1)
    return value if isinstance(value, tuple) else (value,)


def write_sparse(path: Path, said: GgufHeader) -> None:
    """Write a sparse file with this header.

    Only the vocabulary's length matters, so it is one string of that length: GGUFReader reads it at once, where
    100,000 tokens take seconds.
    """
    metadata = {key: list(value) if isinstance(value, tuple) else value for key, value in said.metadata.items()}
    for name, length in said.lengths.items():
        metadata[name] = "." * length
    infos = [Info(tensor.name, tensor.shape, _TYPE_NUMBERS[tensor.type]) for tensor in said.tensors]
    with open(path, "wb") as file:
        written = file.write(a_header(metadata, infos))
        file.truncate(written + sum(-(-each.size_bytes // 32) * 32 for each in infos))


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Cache xllamacpp's parse of a file, which it repeats for every estimate and which takes seconds."""
    reader, types = xllamacpp.memory._import_gguf()
    parsed, dumped = lru_cache(1)(reader), lru_cache(1)(xllamacpp.memory.dump_metadata_json)
    with (
        mock.patch.object(xllamacpp.memory, "_import_gguf", lambda: (parsed, types)),
        mock.patch.object(xllamacpp.memory, "dump_metadata_json", dumped),
    ):
        yield
