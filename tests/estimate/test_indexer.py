"""Index keys of sparse attention (indexer.py). Figures: llama.cpp b11549, no_alloc, 8,192 tokens of f16."""

from __future__ import annotations

import pytest

from app.entities.gguf import GgufHeader, Value
from app.entities.launch import ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import model_shape

MIB = 2**20
MLA = {"key_length": 576, "value_length": 512, "key_length_mla": 256, "value_length_mla": 256, "head_count_kv": 1}
GQA = {"key_length": 128, "value_length": 128, "head_count_kv": 4}
EVERY_FOURTH = tuple(il % 4 == 3 for il in range(46))


@pytest.mark.parametrize(
    ("architecture", "attention", "others", "mib"),
    [
        # 8,192 tokens x 2 bytes x 60 layers x (4 x 128 + 4 x 128) = 960 MiB, and of the 57 after the first 3, K and V
        # of one head of 128: 228 MiB (llama-kv-cache-msa.cpp, llama_kv_cache_msa)
        ("minimax-m3", GQA, {"block_count": 60, "leading_dense_block_count": 3}, 1188),
        # x 78 x 576 = 702 MiB, and 128 in all layers: 156 MiB (glm-dsa.cpp, load_arch_hparams: before GLM 5.2) ...
        ("glm-dsa", MLA, {"block_count": 78, "context_length": 202752}, 858),
        # ... or in the first 3 and every fourth after them: 21 layers, 42 MiB (GLM_5_2_DEFAULT_INDEXER_TYPES)
        ("glm-dsa", MLA, {"block_count": 78, "context_length": 1048576}, 744),
        # x 48 x (576 + 128) = 528 MiB (llama-model.cpp, create_memory: LLM_ARCH_HY_V4)
        ("hy_v4", MLA | {"indexer.types": (True,) * 48}, {"block_count": 48}, 528),
        # x 11 layers x (576 + 128) = 121 MiB, and 35 with a window of 512 + 512 tokens: 39.4 MiB (LLM_ARCH_DOTS3NOTE)
        (
            "dots3note",
            MLA
            | {
                "indexer.types": EVERY_FOURTH,
                "sliding_window": 512,
                "sliding_window_pattern": tuple(not full for full in EVERY_FOURTH),
            },
            {"block_count": 46},
            160.375,
        ),
    ],
)
def test_index_keys_are_kept_by_the_layers_that_select(
    architecture: str, attention: dict[str, Value], others: dict[str, Value], mib: float
):
    indexer = {"indexer.key_length": 128, "indexer.top_k": 2048, "head_count": 64}
    keys = {f"attention.{key}": value for key, value in (attention | indexer).items()} | others
    metadata: dict[str, Value] = {f"{architecture}.{key}": value for key, value in keys.items()}
    shape = model_shape(GgufHeader({"general.architecture": architecture} | metadata, {}, ()))
    estimate = estimate_memory(shape, ModelOptions(ctx_size=8192, parallel=1))
    assert estimate.devices[0].context_bytes == mib * MIB


def test_without_a_number_of_tokens_to_select_there_is_no_indexer():
    """hy_v4's checkpoints of full attention."""
    metadata: dict[str, Value] = {
        "general.architecture": "hy_v4",
        "hy_v4.block_count": 48,
        "hy_v4.attention.indexer.key_length": 128,
        "hy_v4.attention.head_count": 32,
    }
    assert not any(model_shape(GgufHeader(metadata, {}, ())).indexer_width)
