"""Families: which architectures have been compared with llama.cpp's own figures, and which need a margin."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Offload(enum.Enum):
    """Where the layers are placed."""

    ONE_GPU = enum.auto()
    SEVERAL_GPUS = enum.auto()
    PARTIAL = enum.auto()  # some in RAM
    CPU = enum.auto()


MEASURED = frozenset(
    {
        *("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "gemma3n", "gpt-oss", "deepseek2", "phi3"),
        *("falcon-h1", "granitehybrid", "qwen3next", "mamba2", "llama4", "glm4moe", "qwen35", "qwen35moe", "qwen3vl"),
        *("qwen3vlmoe", "qwen2vl", "qwen2moe", "olmo2", "smollm3", "exaone4", "hunyuan-dense", "hunyuan-moe"),
        *("ernie4_5", "ernie4_5-moe", "granite", "nemotron_h", "lfm2", "lfm2moe", "jamba", "mamba", "rwkv7"),
        *("minimax-m2", "kimi-linear", "deepseek32", "glm4", "chatglm", "starcoder2", "dbrx", "command-r", "gemma4"),
        *("seed_oss", "apertus", "stablelm", "bailingmoe2", "arcee", "smallthinker", "falcon", "deepseek", "bert"),
        *("nomic-bert", "jina-bert-v3", "modern-bert", "gemma-embedding", "cohere2"),
    }
)

# Every row with one GPU matched within 0.05 %, with any context, slots and ubatch.
EXACT = frozenset(
    {
        *(
            "apertus",
            "arcee",
            "dbrx",
            "glm4",
            "gpt-oss",
            "granite",
            "hunyuan-dense",
            "jamba",
            "llama",
            "lfm2",
            "lfm2moe",
        ),
        *("llama4", "minimax-m2", "qwen2", "qwen2vl", "qwen3next", "starcoder2"),
    }
)

MEASURED_CACHES = frozenset({("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0")})  # types of K and V

# Booked on top, as a share of the items: alignment between the copies of several GPUs, and the gaps ggml-alloc uses for
# tensors copied in from RAM, differ from model to model.
USUAL_MARGINS: Mapping[Offload, float] = {Offload.SEVERAL_GPUS: 0.01, Offload.PARTIAL: 0.02}

# Larger margins where the rules fall short of a measured row by more than 2 % (bench/estimate.py lists the rows).
MARGINS: Mapping[tuple[str, Offload], float] = {
    ("bert", Offload.SEVERAL_GPUS): 0.28,
    ("cohere2", Offload.SEVERAL_GPUS): 0.03,
    ("deepseek", Offload.PARTIAL): 0.04,
    ("falcon-h1", Offload.ONE_GPU): 0.01,
    ("gemma3", Offload.PARTIAL): 0.05,
    ("gemma3n", Offload.SEVERAL_GPUS): 0.02,
    ("gemma4", Offload.SEVERAL_GPUS): 0.05,
    ("lfm2", Offload.PARTIAL): 0.06,
    ("lfm2", Offload.SEVERAL_GPUS): 0.03,
    ("nemotron_h", Offload.SEVERAL_GPUS): 0.10,
    ("olmo2", Offload.SEVERAL_GPUS): 0.02,
    ("stablelm", Offload.PARTIAL): 0.04,
    ("stablelm", Offload.SEVERAL_GPUS): 0.18,
}
UNKNOWN_MARGIN = 0.10  # of an architecture that has not been measured


def is_known(architecture: str) -> bool:
    return architecture in MEASURED


def margin(architecture: str, offload: Offload) -> float:
    """Share to book on top of the items, 0 to 1."""
    if not is_known(architecture):
        return UNKNOWN_MARGIN
    return MARGINS.get((architecture, offload), USUAL_MARGINS.get(offload, 0.0))
