"""Expert tensors copied in from RAM: one at a time, or two. Figures: llama.cpp b11549, no_alloc."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import ALL_LAYERS, ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import BLOCK, ModelShape, is_expert, model_shape
from bench.estimate import shape_of
from bench.vram_truth import header

MIB = 1024**2
SCOUT = shape_of("llama-4-scout", "Q4_K_M")


def experts_in_ram(ctx: int, layers: int = ALL_LAYERS) -> ModelOptions:
    return ModelOptions(ctx_size=ctx, parallel=1, n_cpu_moe=layers)


def compute_mib(shape: ModelShape, options: ModelOptions) -> float:
    return estimate_memory(shape, options).devices[0].compute_bytes / MIB


def maverick() -> ModelShape:
    """Scout with 128 instead of 16 experts, in every other layer."""
    scout = header("llama-4-scout", "Q4_K_M")
    return model_shape(GgufHeader(scout.metadata, scout.lengths, tuple(map(_of_maverick, scout.tensors))))


def _of_maverick(tensor: Tensor) -> Tensor:
    block = BLOCK.match(tensor.name)
    if not block or not is_expert(tensor.name):
        return tensor
    if int(block[1]) % 2 == 0:
        return replace(tensor, name=tensor.name.replace("_exps", "_dense"), size_bytes=1)
    return replace(tensor, shape=(*tensor.shape[:2], 8 * tensor.shape[2]), size_bytes=8 * tensor.size_bytes)


def test_a_mask_that_comes_after_experts_makes_room_for_two_of_them_necessary():
    # Layer 3 is the first to read the whole context's mask, after the experts of layer 1 (ggml-alloc.c:
    # ggml_dyn_tallocr_alloc): twice ffn_down_exps of 4,200 MiB, and of 525.
    assert compute_mib(maverick(), experts_in_ram(16384)) == pytest.approx(8480.5, abs=0.5)
    assert compute_mib(SCOUT, experts_in_ram(16384)) == pytest.approx(1130.514, abs=0.01)


def test_a_mask_that_fits_into_a_small_gap_leaves_room_for_one():
    # masks of 8 MiB each are smaller than an embedding of 10
    assert compute_mib(SCOUT, experts_in_ram(8192)) == pytest.approx(599.014, abs=0.01)


def test_experts_in_ram_only_before_the_late_mask_are_copied_in_one_at_a_time():
    assert compute_mib(SCOUT, experts_in_ram(16384, layers=3)) == pytest.approx(615.514, abs=0.01)


def test_experts_after_the_first_mask_are_copied_in_one_at_a_time():
    mixtral = shape_of("mixtral-8x7b", "Q4_K_M")
    estimate = estimate_memory(mixtral, experts_in_ram(16384)).devices[0]
    # 367.5 + 56 + 16 + 4 x 8 + a mask of 16 MiB
    assert estimate.compute_bytes / MIB == pytest.approx(368 + 56 + 16 + 32 + 16, abs=1)
    assert estimate.margin_bytes < mixtral.largest_expert_bytes // 4
