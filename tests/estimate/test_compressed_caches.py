"""The caches of deepseek4 (llama-kv-cache-dsv4.cpp, llama_kv_cache_dsv4). Figures: llama.cpp b11549, no_alloc."""

from __future__ import annotations

import pytest

from app.entities.gguf import GgufHeader, Value
from app.entities.launch import ModelOptions
from app.use_cases.estimate.kv_cache import context_bytes
from app.use_cases.model_shape.shape import model_shape

MIB = 2**20
METADATA: dict[str, Value] = {
    "general.architecture": "deepseek4",
    "deepseek4.block_count": 43,
    "deepseek4.attention.head_count": 64,
    "deepseek4.attention.head_count_kv": 1,
    "deepseek4.attention.key_length": 512,
    "deepseek4.attention.value_length": 512,
    "deepseek4.attention.sliding_window": 128,
    "deepseek4.attention.indexer.key_length": 128,
    "deepseek4.attention.indexer.top_k": 512,
    "deepseek4.attention.compress_ratios": (0, 0, *(4, 128) * 20, 4),
}


@pytest.mark.parametrize(
    ("options", "mib"),
    [
        # One slot of 8,192 tokens: 43 layers x 768 cells (128 + 512, rounded up) x 512 values x 2 bytes = 32.25 MiB;
        # 21 layers x 2,048 keys x (512 + 128) x 2 = 52.5 MiB; 20 x 256 (64, rounded up) x 512 x 2 = 5 MiB; keys and
        # scores in f32 of the blocks being filled: 21 x 2 x 4 x 8 x 2 x (512 + 128) = 1.641 MiB and
        # 20 x 2 x 4 x 128 x 512 = 10 MiB. Measured: 101.391 MiB.
        (ModelOptions(ctx_size=8192, parallel=1), 32.25 + 52.5 + 5 + 1.640625 + 10),
        # A slot of four has 4,096 tokens: 32.25 + 26.25 + 5 + 11.64 MiB. Measured: 300.562 MiB.
        (ModelOptions(ctx_size=16384, parallel=4, kv_unified=False), 4 * 75.140625),
        # Also unified, each slot has all 8,192 tokens; 43 x 1,280 x 512 x 2 = 53.75 MiB. Measured: 245.781 MiB.
        (ModelOptions(ctx_size=8192, parallel=2, ubatch_size=1024), 2 * (53.75 + 57.5 + 11.640625)),
    ],
)
def test_each_slot_keeps_a_window_and_compressed_keys(options: ModelOptions, mib: float):
    shape = model_shape(GgufHeader(METADATA, {}, ()))
    assert context_bytes(shape, options, [range(44)]) == [mib * MIB]
