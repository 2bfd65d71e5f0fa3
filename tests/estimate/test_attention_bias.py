"""T5's attention bias (attention_bias.py). Figures: llama.cpp b11549, no_alloc."""

from __future__ import annotations

import pytest

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape
from bench.estimate import shape_of

MIB = 1024**2
ENCODER = shape_of("t5-v1.1-xxl-encoder", "Q4_K_M")  # 24 layers, 64 heads, embeddings of 8 MiB for 512 tokens
DECODER = shape_of("flan-t5-large", "Q4_K_M")  # 24 layers, 16 heads, embeddings of 2 MiB


def compute_mib(shape: ModelShape, tokens: int, ctx: int, devices: int = 1) -> list[float]:
    task = Task.EMBEDDING if shape is ENCODER else Task.COMPLETION
    options = ModelOptions(ctx_size=ctx, parallel=1, devices=devices, batch_size=2048, ubatch_size=tokens, task=task)
    return [each.compute_bytes / MIB for each in estimate_memory(shape, options).devices]


def test_scores_are_there_three_times_and_the_distances_once_for_each_layer():
    # 3 x 64 heads x 512 x 512 x 4 bytes = 192 MiB, 24 x 1 MiB, 5 x 8 MiB, and a mask of 0.5. Measured: 256.5 MiB.
    assert compute_mib(ENCODER, 512, 512) == pytest.approx([192 + 24 + 40 + 0.5], abs=0.1)
    # 3 x 1024 + 24 x 16 + 5 x 32 + 8 MiB. Measured: 3,624 MiB.
    assert compute_mib(ENCODER, 2048, 2048) == pytest.approx([3624], abs=0.1)


def test_a_decoder_computes_them_for_every_cell():
    # 3 x 64 + 24 x 4 + 5 x 2 MiB, V of 4, masks of 2 and 0.5 MiB. Measured: 304.5 MiB.
    assert compute_mib(DECODER, 512, 2048) == pytest.approx([192 + 96 + 10 + 4 + 2 + 0.5], abs=0.1)


def test_the_first_gpu_of_a_pipeline_computes_the_scores_of_all_layers():
    # Of the other's 11 layers, scores of 64 MiB and values of 8, four times: 3,168 MiB. Measured: 3,594 and 512 MiB.
    assert compute_mib(ENCODER, 512, 512, devices=2) == pytest.approx([3594, 512], abs=0.1)
