"""Known reasons why the estimates of some architectures are off by more than 2 %.

Weights and context are exact everywhere: what is off is the compute buffer. E is one f32 embedding of all tokens of a
ubatch. "exactly": the rows differ by precisely that.
"""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "not understood"

_GAPS = (
    "how much of the next layer's weights and cache is copied in with the first one's depends on the gaps that "
    "ggml-alloc finds; a middle value is counted"
)
_LAST_LAYER = "a last GPU with only the last layer and the output needs 2 E more than counted, exactly"
_CROSSING = "copies between GPUs depend on the layers on both sides of the split; only the one after it is considered"

# By kind of row (bench.estimate.kind) and family.
REASONS: Mapping[str, Mapping[str, str]] = {
    "one GPU": {
        "falcon-h1": f"{UNKNOWN}: each layer has attention and Mamba-2 in parallel, and a ubatch of 2048 needs more "
        "than 4 times as much as one of 512, while the rules are linear",
    },
    "no flash attention": {"gemma2": f"{UNKNOWN}: on the first of two GPUs 6 E are missing"},
    "several GPUs": {
        "deepseek": f"{UNKNOWN}: with a quantized KV cache, each of several GPUs needs 12 to 13 E more",
        "ernie4_5": _LAST_LAYER,
        "gemma3": f"{UNKNOWN}: 2 MiB are missing for a 270M model with a quantized KV cache",
        "gemma3n": f"{UNKNOWN}: the second of four GPUs lacks 8 E",
        "gemma4": "8 to 13 E are missing on the first GPU: likely the per-layer embeddings of the other GPUs' "
        "layers, which are counted only for gemma3n",
        "jamba": f"{_CROSSING}: after an attention layer, Mamba's projection is counted but not copied",
        "lfm2": f"{_LAST_LAYER}; with a quantized KV cache 3 E are missing ({UNKNOWN})",
        "nemotron_h": f"{_CROSSING}: a Mamba-2 layer's projection is also copied to a feed-forward layer",
    },
    "partial offload": {
        **dict.fromkeys(("gemma2", "lfm2"), _GAPS),
        "mamba2": f"{UNKNOWN}: 6 E are missing on the second GPU, likely copies to it",
    },
    "embedding, rerank": {
        "bert": f"{UNKNOWN}: with heads of 32, which CUDA's flash attention lacks, the first of two GPUs needs 72 MiB "
        "more",
        "gemma-embedding": f"{UNKNOWN}: without flash attention, 18 MiB too many are counted",
        **dict.fromkeys(("jina-bert-v3", "modern-bert"), f"0.5 of 20 MiB, without layers on the GPU: {UNKNOWN}"),
        "qwen3": "2 E too many are counted on the last GPU: likely dead when the logits of all tokens are computed",
    },
}


def reason(family: str, kind: str, item: str) -> str:
    """The reason in one sentence, or which item is off if it has not been investigated."""
    return REASONS.get(kind, {}).get(family) or f"{UNKNOWN}: {item}"


def outdated(seen: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Architecture and category of reasons whose misses no longer occur."""
    return [(family, kind) for kind, each in REASONS.items() for family in each if (family, kind) not in seen]
