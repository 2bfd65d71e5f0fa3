"""Expert copies: how many expert tensors from RAM the first device holds at once while it computes with them.

Each is copied in for one operation and freed after it, so that one at a time would be enough; whether the next one fits
where the last one was is decided by ggml-alloc (b11549, ggml-alloc.c: ggml_dyn_tallocr_alloc).
"""

from __future__ import annotations

from bisect import bisect_left

from app.entities.launch import ModelOptions
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells
from app.use_cases.estimate.tensor_overrides import MovedTensors
from app.use_cases.model_shape.shape import ModelShape

# Architectures whose graphs copy in the next expert tensor beside the previous one even if both have the same size.
EQUAL_EXPERTS_BESIDE = frozenset({"qwen3next", "qwen35moe", "kimi-linear", "gemma4"})


def copied_experts_bytes(
    shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, moved: MovedTensors
) -> int:
    """Peak bytes while a layer computes with experts from RAM, without masks."""
    one = one_copied_expert_bytes(shape, w)
    return max(one, shape.expert_pair_bytes + 6 * w.e if _holds_two(shape, options, w, cells, moved) else 0)


def one_copied_expert_bytes(shape: ModelShape, w: Work) -> int:
    """Peak bytes while a layer computes with one expert tensor from RAM; 0 without experts."""
    after = 2 * w.expert_e + 5 * w.e if w.shape.architecture in EQUAL_EXPERTS_BESIDE else 0
    largest = shape.largest_expert_bytes
    return largest + max(w.expert_ff + w.expert_e + 4 * w.e, after) if largest else 0


def experts_alone_bytes(shape: ModelShape, w: Work) -> int:
    """Peak bytes of a device that computes experts from RAM and nothing else. With few tokens the gaps are small, and
    two tensors of a layer are held at once."""
    largest = shape.largest_expert_bytes
    return max(shape.two_experts_bytes + w.e, largest + 2 * w.expert_e + max(3 * w.e, w.expert_ff))


def uncounted_expert_bytes(
    shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, moved: MovedTensors
) -> int:
    """What a second expert tensor takes where one is counted, but the gaps may be such that two are held."""
    if not (moved.emptied or options.n_cpu_moe) or _holds_two(shape, options, w, cells, moved):
        return 0
    return shape.expert_pair_bytes - shape.largest_expert_bytes if _late_masks(shape, options, cells, moved) else 0


def _holds_two(shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, moved: MovedTensors) -> bool:
    """Whether an expert tensor is copied in while a mask takes up the place of the one before it.

    A mask is copied in with the first layer that reads it and stays (ggml_backend_sched_split_graph). If that is after
    a layer with experts in RAM, and the mask fills more than the small gaps, ggml_dyn_tallocr_alloc puts it where that
    layer's expert tensors were; the next one no longer fits in there.
    """
    if not (shape.has_mixed_experts or shape.graph.architecture in EQUAL_EXPERTS_BESIDE):
        return False
    return any(2 * tokens * w.tokens >= w.e for tokens in _late_masks(shape, options, cells, moved))


def _late_masks(shape: ModelShape, options: ModelOptions, cells: CacheCells, moved: MovedTensors) -> list[int]:
    """Cells of the masks first read at least two layers after the first experts in RAM, with more experts behind."""
    first = bisect_left(shape.experts, 1) - 1
    last = min(options.n_cpu_moe, shape.hparams.n_layer) - 1
    if moved.emptied:
        first, last = min(moved.emptied), max(last, *moved.emptied)
    kinds = ((shape.reads_base, cells.base), (shape.reads_window, cells.window))
    return [count for reads, count in kinds if reads[-1] and first + 2 <= bisect_left(reads, 1) - 1 <= last]
