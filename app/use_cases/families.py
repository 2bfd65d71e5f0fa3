"""Which families of models have been held against llama.cpp's own figures, and which of them need a margin."""

from __future__ import annotations

from collections.abc import Mapping

MEASURED = frozenset(
    {
        *("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "gemma3n", "gpt-oss", "deepseek2", "phi3"),
        *("falcon-h1", "granitehybrid", "qwen3next", "mamba2", "llama4", "glm4moe", "qwen35", "qwen35moe", "qwen3vl"),
        *("qwen3vlmoe", "qwen2vl", "qwen2moe", "olmo2", "smollm3", "exaone4", "hunyuan-dense", "hunyuan-moe"),
        *("ernie4_5", "ernie4_5-moe", "granite", "nemotron_h", "lfm2", "lfm2moe", "jamba", "mamba", "rwkv7"),
        *("minimax-m2", "kimi-linear", "deepseek32", "glm4", "chatglm", "starcoder2", "dbrx", "command-r", "gemma4"),
        *("seed_oss", "apertus", "stablelm", "bailingmoe2", "arcee", "smallthinker", "falcon", "deepseek", "bert"),
        *("nomic-bert", "jina-bert-v3", "modern-bert", "gemma-embedding"),
    }
)

# Booked on top, as a share of the items: families whose graphs grow in ways the rules do not follow.
MARGINS: Mapping[str, float] = {}


def is_known(architecture: str) -> bool:
    return architecture in MEASURED
