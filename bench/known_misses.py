"""Why the estimates of some families are off by more than 2 %, as far as that is known.

Weights and context are exact everywhere, so what is off is the compute buffer. E is one f32 embedding of all tokens of
a ubatch. "exactly": the difference in the rows is just that.
"""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "not understood"

_GAPS = (
    "what of the next layer's weights and cache is copied in beside the first one's depends on the gaps that "
    "ggml-alloc finds; a middle is counted"
)
_LAST_LAYER = "a last GPU with nothing but the last layer and the output takes 2 E more than is counted, exactly"
_CROSSING = "what crosses depends on the layers on both sides of the split; only the one behind it is looked at"

# By kind of row (bench.estimate.kind) and family.
REASONS: Mapping[str, Mapping[str, str]] = {
    "one GPU": {
        "falcon-h1": f"{UNKNOWN}: attention and Mamba-2 stand side by side in each layer, and a ubatch of 2048 takes "
        "more than 4 times what one of 512 does, where the rules are linear",
    },
    "no flash attention": {"gemma2": f"{UNKNOWN}: on the first of two GPUs 6 E are missing"},
    "several GPUs": {
        "deepseek": f"{UNKNOWN}: with a quantized KV cache, each of several GPUs takes 12 to 13 E more",
        "ernie4_5": _LAST_LAYER,
        "gemma3": f"{UNKNOWN}: 2 MiB are missing for a 270M model with a quantized KV cache",
        "cohere2": f"{UNKNOWN}: with a quantized KV cache 11 E are missing behind the first GPU",
        "gemma3n": f"{UNKNOWN}: the second of four GPUs lacks 8 E",
        "gemma4": "on the first GPU 8 to 13 E are missing: likely the per-layer embeddings of the others' layers, "
        "which are counted for gemma3n only",
        "jamba": f"{_CROSSING}: behind an attention layer, Mamba's projection is counted and does not cross",
        "lfm2": f"{_LAST_LAYER}; with a quantized KV cache 3 E are missing ({UNKNOWN})",
        "nemotron_h": f"{_CROSSING}: from a Mamba-2 layer its projection crosses to a feed-forward layer too",
        "stablelm": "likely: a quantized V cache forces flash attention, CUDA has none for heads of 160, so it is "
        "computed in RAM, and what crosses there and back in copies is not counted",
    },
    "partial offload": {
        **dict.fromkeys(("gemma2", "gemma3", "lfm2", "qwen2", "qwen3", "qwen3vl"), _GAPS),
        "mamba2": f"{UNKNOWN}: 6 E are missing on the second GPU, likely what crosses to it",
    },
    "embedding, rerank": {
        "bert": f"{UNKNOWN}: with heads of 32, which CUDA's flash attention lacks, the first of two GPUs takes 72 MiB "
        "more",
        "gemma-embedding": f"{UNKNOWN}: without flash attention, 18 MiB are counted that are not there",
        **dict.fromkeys(("jina-bert-v3", "modern-bert"), f"of 20 MiB without layers on the GPU half a MiB: {UNKNOWN}"),
        "qwen3": "the last GPU is charged with 2 E too many: likely dead when the logits of all tokens are made",
    },
}


def reason(family: str, kind: str, item: str) -> str:
    """One sentence; where nobody has looked, which item is off."""
    return REASONS.get(kind, {}).get(family) or f"{UNKNOWN}: {item}"


def outdated(seen: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Family and kind of the reasons for misses that are no longer there."""
    return [(family, kind) for kind, each in REASONS.items() for family in each if (family, kind) not in seen]
