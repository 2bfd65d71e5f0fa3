"""Sparse attention's scores of all cells (indexer_scores.py). Figures: llama.cpp b11549, no_alloc."""

from __future__ import annotations

import pytest

from app.entities.launch import ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from bench.estimate import shape_of

MIB = 1024**2


def compute_mib(model: str, ctx: int, n_cpu_moe: int = 0) -> float:
    options = ModelOptions(ctx_size=ctx, parallel=1, n_cpu_moe=n_cpu_moe)
    return estimate_memory(shape_of(model, "Q4_K_M"), options).devices[0].compute_bytes / MIB


def test_in_a_long_context_the_scores_of_all_cells_are_the_most():
    # 4 heads: 34 bytes for each of 512 x 131,072, and 2 masks of 128 MiB. Measured: 2,569 MiB; 472 were estimated.
    assert compute_mib("minimax-m3", 131072) == pytest.approx(34 * 64 + 2 * 128 + 9.7 * 12, abs=25)
    assert compute_mib("hy-v4", 131072) == pytest.approx(868, abs=0.1)  # measured; 488 were estimated
    assert compute_mib("hy-v4", 32768) == pytest.approx(528, abs=0.1)  # measured; a layer takes more


def test_beside_an_expert_tensor_from_ram_nothing_is_reused_on_one_gpu():
    # An expert tensor of 2,940 MiB, 31.7 embeddings of 14 MiB, 2 masks of 64 MiB. Measured: 3,512.1 MiB.
    assert compute_mib("deepseek-v3.2", 65536, n_cpu_moe=99) == pytest.approx(3512.1, abs=0.2)
