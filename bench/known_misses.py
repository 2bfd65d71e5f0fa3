"""Why the estimates of some families are off by more than 2 %, as far as that is known.

Weights and context are exact everywhere, so what is off is the compute buffer. E is one f32 embedding of all tokens of
a ubatch. "exactly": the difference in the rows is just that.
"""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "not understood"

_COPIED_WEIGHTS = (
    "weights that are copied to the GPU to compute layers in RAM (op_offload) are not counted beside an encoder's "
    "network"
)
_RESIDUALS = "with half of the layers in RAM, the 8 E of a decoder are counted, of which an encoder has 2 to 4"
_NO_CACHE = (
    "layer 0, in RAM, is recurrent or a convolution: no KV cache is copied in, but the model's widest is counted"
)
_WINDOW = "layer 0, in RAM, has a sliding window and little cache to copy in; a full one is counted"
_COPIED_IN = (
    f"{UNKNOWN}: for layers in RAM the GPU takes more than their network and one copied cache, which are counted"
)
_LAST_LAYER = "a last GPU with nothing but the last layer and the output takes 2 E more than is counted, exactly"
_SHARED_MASK = (
    "a GPU whose layers all read the caches of other GPUs still gets 4 copies of their mask; only owners' are counted, "
    "exactly"
)
_CROSSING = "what crosses depends on the layers on both sides of the split; only the one behind it is looked at"
_PADDED = (
    "the embeddings that are padded for deepstack are counted in the network of a layer only, but live through its "
    "attention, which is the larger one here"
)

# By kind of row (bench.estimate.kind) and family.
REASONS: Mapping[str, Mapping[str, str]] = {
    "one GPU": {
        "falcon-h1": f"{UNKNOWN}: attention and Mamba-2 stand side by side in each layer, and a ubatch of 2048 takes "
        "more than 4 times what one of 512 does, where the rules are linear",
    },
    "one GPU, quantized KV": {"qwen3vl": _PADDED},
    "no flash attention": {"qwen3vl": _PADDED},
    "several GPUs": {
        "deepseek": f"{UNKNOWN}: with a quantized KV cache, each of several GPUs takes 12 to 13 E more",
        "ernie4_5": _LAST_LAYER,
        "gemma3": f"{UNKNOWN}: 2 MiB are missing for a 270M model with a quantized KV cache",
        "gemma3n": f"{_SHARED_MASK}; the second of four GPUs lacks another 8 E ({UNKNOWN})",
        "gemma4": f"{_SHARED_MASK}; on the first GPU 8 to 13 E are missing: likely the per-layer embeddings of the "
        "others' layers, which are counted for gemma3n only",
        "jamba": f"{_CROSSING}: behind an attention layer, Mamba's projection is counted and does not cross",
        "lfm2": f"{_LAST_LAYER}; with a quantized KV cache 3 E are missing ({UNKNOWN})",
        "nemotron_h": f"{_CROSSING}: from a Mamba-2 layer its projection crosses to a feed-forward layer too",
        "olmo2": "no norm comes before its attention, so the residual crosses alone: 4 E less than counted on each GPU "
        "but the first, exactly",
        "qwen3vl": f"{UNKNOWN}: the copies of the padded embeddings on the first GPU are 11 E too many",
        "stablelm": "likely: a quantized V cache forces flash attention, CUDA has none for heads of 160, so it is "
        "computed in RAM, and what crosses there and back in copies is not counted",
    },
    "partial offload": {
        "gemma3": _WINDOW,
        "gemma3n": f"{UNKNOWN}: half of a model with shared caches and per-layer embeddings is in RAM",
        "lfm2": f"{_NO_CACHE}; with half of the model in RAM 482 MiB are missing, more than any tensor has ({UNKNOWN})",
        "olmo2": _WINDOW,
        "qwen2": _COPIED_IN,
        "qwen2vl": _COPIED_IN,
        "qwen35": _NO_CACHE,
        "qwen3vl": "the embeddings that are padded for deepstack (16 E) are counted on every GPU, and are only where "
        "the first layers are computed",
    },
    "embedding, rerank": {
        "bert": f"{_COPIED_WEIGHTS}; {_RESIDUALS}; with heads of 32, which CUDA's flash attention lacks, a GPU "
        "without layers is charged with scores that likely stay in RAM, and the first of two GPUs takes 72 MiB more "
        f"({UNKNOWN})",
        "gemma-embedding": f"{UNKNOWN}: without flash attention, 18 MiB are counted that are not there",
        "jina-bert-v3": f"{_COPIED_WEIGHTS}; {_RESIDUALS}",
        "modern-bert": _COPIED_WEIGHTS,
        "nomic-bert": _COPIED_WEIGHTS,
        "qwen3": "the last GPU is charged with 2 E too many: likely dead when the logits of all tokens are made",
    },
}


def reason(family: str, kind: str, item: str) -> str:
    """One sentence; where nobody has looked, which item is off."""
    return REASONS.get(kind, {}).get(family) or f"{UNKNOWN}: {item}"


def outdated(seen: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Family and kind of the reasons for misses that are no longer there."""
    return [(family, kind) for kind, each in REASONS.items() for family in each if (family, kind) not in seen]
