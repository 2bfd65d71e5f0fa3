"""Measures how long it takes to read a model's header with a vocabulary and merges as large as Gemma 3's.

    python -m bench.headers [--tokens N] [--merges N] [--runs N] [--json FILE]

The file is written to the temporary directory. `cold`: neither the page cache nor ours has it; `warm`: the page cache
has it; `known`: our cache has its header; `memory`: Python's peak allocation during a read. Prints minimum, median and
maximum of each case.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from bench.record import record, summary
from tests.helpers.gguf_bytes import F16, Info, Typed, a_header
from workers.catalog.model_headers import ModelHeaders
from workers.gguf.constants import ValueType
from workers.gguf.header import read_header

LAYERS = 62
TENSORS = 13  # per layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=262_208, help="tokens in the vocabulary (default: 262208)")
    parser.add_argument("--merges", type=int, default=515_000, help="number of merges (default: 515000)")
    parser.add_argument("--runs", type=int, default=20, help="runs of each case (default: 20)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        header_bytes = write_model(path, options.tokens, options.merges)
        figures = _measure(str(path), options.runs)
    for name, figure in figures.items():
        print(f"{name:20} min {figure['min']:.3g}  median {figure['median']:.3g}  max {figure['max']:.3g}")
    if options.json:
        about = {"tokens": options.tokens, "merges": options.merges, "runs": options.runs, "header_bytes": header_bytes}
        record(options.json, figures, **about)


def write_model(path: Path, tokens: int = 262_208, merges: int = 515_000) -> int:
    """Write a sparse model file without tensor data; returns the size of its header in bytes."""
    metadata = {
        "general.architecture": "gemma3",
        "gemma3.block_count": LAYERS,
        "tokenizer.ggml.tokens": Typed(ValueType.STRING, [b"%8d" % number for number in range(tokens)]),
        "tokenizer.ggml.scores": Typed(ValueType.FLOAT32, [0.0] * tokens),
        "tokenizer.ggml.token_type": Typed(ValueType.INT32, [1] * tokens),
        "tokenizer.ggml.merges": Typed(ValueType.STRING, [b"%5d %5d" % (n % 99_999, n // 9) for n in range(merges)]),
    }
    infos = [Info(f"blk.{layer}.{each}", (5376, 64), F16) for layer in range(LAYERS) for each in range(TENSORS)]
    header = a_header(metadata, infos)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(each.size_bytes for each in infos))
        file.flush()
        os.fsync(file.fileno())
    return len(header)


def _measure(path: str, runs: int) -> dict[str, dict[str, float]]:
    known = ModelHeaders(lambda header: None)
    known.get(path)
    cases: dict[str, tuple[Callable[[], object], bool]] = {
        "cold_seconds": (lambda: read_header(path), True),
        "warm_seconds": (lambda: read_header(path), False),
        "known_seconds": (lambda: known.get(path), False),
    }
    figures = {name: summary([_timed(case, path, cold) for _ in range(runs)]) for name, (case, cold) in cases.items()}
    tracemalloc.start()
    read_header(path)
    return figures | {"memory_mib": summary([tracemalloc.get_traced_memory()[1] / 1024**2])}


def _timed(case: Callable[[], object], path: str, cold: bool) -> float:
    if cold:
        forget(path)
    began = time.perf_counter()
    case()
    return time.perf_counter() - began


def forget(path: str) -> None:
    """Drop the file from the page cache. Only pages already written to disk can be dropped."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(number)


if __name__ == "__main__":
    main()
