"""Facts about architectures that llama.cpp's source has and model files lack: which layers keep which state.

Checked against build b11434: src/models/*.cpp (load_arch_hparams), src/llama-model.cpp (create_memory),
src/llama-arch.cpp (llm_arch_is_recurrent, llm_arch_is_hybrid). Names are those of `general.architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Which layers use a sliding window, if the file does not list them.

    One of every `period` layers attends to the whole context: the first if `is_first_full`, else the last.
    """

    period: int
    is_first_full: bool = False
    default_tokens: int = 0  # the window if the file has none
    fixed_tokens: int = 0  # overrides the file's value


WINDOWS: Mapping[str, SlidingWindow] = {
    "afmoe": SlidingWindow(4),
    "cohere2": SlidingWindow(4),
    "cohere2moe": SlidingWindow(4, is_first_full=True),
    "exaone-moe": SlidingWindow(4, default_tokens=128),
    "exaone4": SlidingWindow(4, default_tokens=4096),  # only with 64 layers: Hparams.window_tokens
    "gemma-embedding": SlidingWindow(6),
    "gemma-embedding2": SlidingWindow(6),
    "gemma2": SlidingWindow(2, default_tokens=4096),
    "gemma3": SlidingWindow(6),
    "gemma3n": SlidingWindow(5),
    "gpt-oss": SlidingWindow(2),
    "laguna": SlidingWindow(4, is_first_full=True),
    "llama4": SlidingWindow(4, fixed_tokens=8192),
    "mellum": SlidingWindow(4),
    "modern-bert": SlidingWindow(3, is_first_full=True),
    "muse-glimmer": SlidingWindow(4),
    "olmo2": SlidingWindow(4),
    "plamo3": SlidingWindow(8),
    "smallthinker": SlidingWindow(4, is_first_full=True, fixed_tokens=4096),
}

# These list their windowed layers in the file, as an array of booleans.
LISTED_WINDOWS = frozenset({"dots3note", "gemma4", "granite_swa", "maple", "mimo2", "spark2_5", "step35"})

# All attention layers of these use the window, if there is one.
ALL_WINDOWED = frozenset({"deepseek4", "lfm2", "lfm2moe"})

# Beside the window they keep compressed keys of all tokens, and no values.
WITH_COMPRESSED_CACHES = frozenset({"deepseek4"})

# No memory between requests: encoders and diffusion models.
WITHOUT_CACHE = frozenset(
    {
        *("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"),
        *("modern-bert", "gemma-embedding", "gemma-embedding2", "wavtokenizer-dec"),
        *("dream", "llada", "llada-moe", "rnd1", "clef"),
    }
)

# Attention that reads no cache: llama-embed has one all the same, and the output matrix that its graph does not use
# (src/models/llama.cpp, graph<true>).
ATTENDS_TO_BATCH = WITHOUT_CACHE | {"llama-embed"}

# These attend to the tokens that follow, whatever `attention.causal` says.
NOT_CAUSAL = frozenset({"dream", "gemma-embedding", "gemma-embedding2", "llada", "llada-moe", "rnd1"})

# A state of fixed size instead of a KV cache in all layers.
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})

# Attention in some layers, a recurrent state in the others: those without KV heads ...
STATE_WITHOUT_KV_HEADS = frozenset(
    {
        *("bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear"),
        *("lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2"),
    }
)
# ... or all but every n-th as the file says, or this one ...
STATE_BY_INTERVAL: Mapping[str, int] = {
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next", "qwen4exp"), 4),
    "minimax-01": 8,
}
# ... or both in every layer.
STATE_AND_KV = frozenset({"falcon-h1"})

# The file has every block once and says how often to pass through all of them.
LOOPED = frozenset({"nanbeige"})

# A last layer without weights, but with a cache (src/models/granite-switch.cpp, router_layer).
WITH_ROUTER_LAYER = frozenset({"graniteswitch"})

TOKEN_SHIFTS: Mapping[str, int] = {"rwkv6": 2, "rwkv7": 2, "rwkv6qwen2": 1, "arwkv7": 1}  # if the file has none

# Positions are added to the embeddings, or to the attention scores; the others rotate queries and keys (RoPE) ...
WITHOUT_ROPE = frozenset({"bloom", "gpt2", "jais", "mpt", "refact", "starcoder"})
# ... but these, if they have windows, only in the layers with one ...
ROPE_IN_WINDOWS = frozenset(
    {"afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "llama4", "muse-glimmer", "smallthinker"}
)
# ... and these not in every n-th layer.
WITHOUT_ROPE_EVERY: Mapping[str, int] = {"smollm3": 4}

# Attention with a bias by distance, which flash attention does not support.
WITH_ATTENTION_BIAS = frozenset({"t5", "t5encoder"})

# The first layers own a KV cache, the others read it ...
WITH_SHARED_CACHES = frozenset({"gemma3n", "gemma4"})
# ... and gemma3n.cpp hard-codes their number.
GEMMA3N_KV_LAYERS = 20

# Encoders without an output matrix. Other files without one use the embedding as output.
WITHOUT_OUTPUT = frozenset(
    {"bert", "eurobert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert"}
)
# Of these without an output matrix, the embedding is used from where it is (src/models/bitnet.cpp, b11549).
WITH_OUTPUT_IN_RAM = frozenset({"bitnet"})
