"""Which families of models have been held against llama.cpp's own figures, and which of them need a margin."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Situation(enum.Enum):
    """Where the layers are."""

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
        *("nomic-bert", "jina-bert-v3", "modern-bert", "gemma-embedding"),
    }
)

# Booked on top, as a share of the items, where the rules fall short of a measured row by more than 2 %: families whose
# graphs grow in ways that nothing in the header tells (bench/estimate.py lists the rows).
MARGINS: Mapping[tuple[str, Situation], float] = {
    ("bert", Situation.PARTIAL): 0.32,
    ("bert", Situation.SEVERAL_GPUS): 0.28,
    ("deepseek", Situation.SEVERAL_GPUS): 0.01,
    ("ernie4_5", Situation.SEVERAL_GPUS): 0.01,
    ("falcon-h1", Situation.ONE_GPU): 0.01,
    ("gemma3", Situation.SEVERAL_GPUS): 0.01,
    ("gemma3n", Situation.PARTIAL): 0.01,
    ("gemma3n", Situation.SEVERAL_GPUS): 0.05,
    ("gemma4", Situation.SEVERAL_GPUS): 0.04,
    ("jina-bert-v3", Situation.PARTIAL): 0.21,
    ("lfm2", Situation.PARTIAL): 0.93,
    ("lfm2", Situation.SEVERAL_GPUS): 0.03,
    ("modern-bert", Situation.PARTIAL): 0.26,
    ("nemotron_h", Situation.SEVERAL_GPUS): 0.09,
    ("nomic-bert", Situation.PARTIAL): 0.15,
    ("qwen2", Situation.PARTIAL): 0.01,
    ("qwen2vl", Situation.PARTIAL): 0.01,
    ("qwen3vl", Situation.ONE_GPU): 0.03,
    ("stablelm", Situation.SEVERAL_GPUS): 0.18,
}
UNKNOWN_MARGIN = 0.10  # of a family nobody has measured


def is_known(architecture: str) -> bool:
    return architecture in MEASURED


def margin(architecture: str, situation: Situation) -> float:
    """The share to book on top of the items."""
    return MARGINS.get((architecture, situation), 0.0) if is_known(architecture) else UNKNOWN_MARGIN
