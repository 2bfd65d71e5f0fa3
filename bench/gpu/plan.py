"""Chooses the models to write: several families and sizes, up to the largest that fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.entities.launch import Task
from bench.gpu.kind import Kind
from bench.gpu.shapes import Shape

LARGEST_SHARE = 0.9  # of the memory, for a model with a small context

_GPU = (
    Shape("qwen2.5-0.5b", "Q4_K_M"),
    Shape("embeddinggemma-300m", "Q8_0", task=Task.EMBEDDING),
    Shape("bge-reranker-v2-m3", "Q8_0", task=Task.EMBEDDING),
    Shape("gemma-3-1b", "Q4_K_M"),
    Shape("llama-3.2-1b", "Q4_K_M"),
    Shape("qwen2.5-0.5b", "F16"),
    Shape("lfm2-1.2b", "Q4_K_M"),
    Shape("falcon-h1-7b", "Q4_K_M"),
    Shape("qwen3-embedding-8b", "Q4_K_M", task=Task.EMBEDDING),
    Shape("qwen3-8b", "Q4_K_M"),
    Shape("gemma-3-12b", "Q4_K_M"),
    Shape("llama-3.1-8b", "Q8_0"),
    Shape("deepseek-v2-lite", "Q4_K_M"),
    Shape("gpt-oss-20b", "MXFP4_MOE"),
    Shape("llama-3.1-8b", "F16"),
    Shape("qwen3-30b-a3b", "Q4_K_M"),
    Shape("granite-4-h-small", "Q4_K_M"),
    Shape("qwen2.5-32b", "Q4_K_M"),
)
# The largest of these that fits is measured too.
_LARGE = (
    Shape("phi-4", "Q8_0"),
    Shape("mistral-small-24b", "Q4_K_M"),
    Shape("llama-3.1-70b", "Q4_K_M"),
    Shape("qwen3-next-80b-a3b", "Q4_K_M"),
    Shape("gpt-oss-120b", "MXFP4_MOE"),
    Shape("llama-4-scout", "Q4_K_M"),
    Shape("glm-4.5-air", "Q4_K_M"),
    Shape("dbrx", "Q4_K_M"),
    Shape("minimax-m2", "Q4_K_M"),
    Shape("qwen3-235b", "Q4_K_M"),
)
# Truncated models keep a layer of each type: without one, llama.cpp finds an unused mask and aborts.
_CPU = (
    Shape("smollm2-135m", "Q4_K_M"),
    Shape("all-minilm-l6", "F16", task=Task.EMBEDDING),
    Shape("ernie-4.5-0.3b", "Q4_K_M"),
    Shape("gemma-3-270m", "Q4_K_M"),
    Shape("qwen2.5-0.5b", "Q4_K_M"),
    Shape("qwen2.5-0.5b", "Q8_0"),
    Shape("llama-3.2-1b", "Q4_K_M"),
    Shape("lfm2-1.2b", "Q4_K_M", layers=6),
    Shape("mamba2-1.3b", "Q4_K_M", layers=6),
    Shape("falcon-h1-7b", "Q4_K_M", layers=2),
    Shape("qwen3-30b-a3b", "Q4_K_M", layers=2),
    Shape("deepseek-v2", "Q4_K_M", layers=1),  # llama.cpp recognizes the lite model by its 27 layers
    Shape("gpt-oss-20b", "MXFP4_MOE", layers=2),
)
_QUICK = (Shape("smollm2-135m", "Q4_K_M", layers=2), Shape("all-minilm-l6", "F16", layers=2, task=Task.EMBEDDING))


def planned(kind: Kind, memory_bytes: int, disk_bytes: int, is_quick: bool = False) -> list[Shape]:
    """Models to measure with this much free memory, and disk space for the largest one; smallest first."""
    if is_quick:
        return list(_QUICK)
    limit = min(int(LARGEST_SHARE * memory_bytes), disk_bytes)
    chosen = _fitting(_GPU if kind is Kind.GPU else _CPU, limit)
    if kind is Kind.GPU and (large := _fitting(_LARGE, limit)):
        chosen.append(large[-1])
    return sorted(chosen, key=lambda shape: shape.data_bytes)


def to_remove(
    written: Iterable[Shape], wanted: Shape, measured: Sequence[Shape], free_bytes: int
) -> list[Shape] | None:
    """Measured models to delete so that `wanted` fits on the disk; None if deleting all of them is not enough."""
    removed: list[Shape] = []
    for each in sorted(written, key=lambda shape: -shape.data_bytes):
        if free_bytes >= wanted.data_bytes:
            break
        if each in measured:
            removed.append(each)
            free_bytes += each.data_bytes
    return removed if free_bytes >= wanted.data_bytes else None


def _fitting(shapes: Iterable[Shape], limit: int) -> list[Shape]:
    return sorted((each for each in shapes if each.data_bytes <= limit), key=lambda shape: shape.data_bytes)
