"""Copies between devices, held once per pipeline stage. Figures: llama.cpp b11549, no_alloc."""

from __future__ import annotations

import pytest

from app.entities.launch import ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from bench.estimate import shape_of


def test_what_the_cpu_computes_for_a_layer_comes_back_in_four_copies():
    """mistral4's ffn_down_exps, marked GGML_PREC_F32 (llama-graph.cpp, build_moe_ffn), is computed on the CPU."""
    shape = shape_of("mistral-small-4", "Q4_K_M")
    options = ModelOptions(ctx_size=8192, parallel=2, kv_unified=False, devices=3)
    estimate = estimate_memory(shape, options)
    # 12 layers x 4 copies of 512 tokens x 4 experts x 4,096 values x 4 bytes = 1,536 MiB, less two of 32 MiB, + 5 MiB
    # of choices and weights; of what is usual 216 MiB. Measured: 1,693 MiB.
    assert estimate.devices[1].compute_bytes / 2**20 == pytest.approx(12 * 4 * 32 - 2 * 32 + 5 + 216, abs=1)
