"""Pipeline copies: tensors copied from one GPU to the next, held once per pipeline stage.

Usually three embeddings enter the first device, a residual and its norm every other. Derived from the graph splits of
llama.cpp b11434 (ggml_backend_sched_split_graph, no_alloc); a real load keeps the norm on its layer's device and needs
4 E less on the devices after the first.
"""

from __future__ import annotations

from app.use_cases.estimate.expert_copies import EXPERTS_ON_CPU
from app.use_cases.estimate.kv_cache import row_bytes
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape

MAX_COPIES = 4  # GGML_SCHED_MAX_COPIES
_MAMBA2 = ("mamba2", "nemotron_h", "nemotron_h_moe")
_MAMBA = ("mamba", "jamba")
_RWKV = ("rwkv6", "rwkv7")
_WITHOUT_FIRST_NORM = ("olmo2",)  # no norm before attention: only the residual is copied
_DEEPSTACK = ("qwen3vl", "qwen3vlmoe")

# Encoders copy sums and norms of their own: E on the first device, and on every other.
_ENCODERS = {
    "bert": (8, 4),
    "nomic-bert": (11, 1),
    "jina-bert-v3": (11.5, 2.5),
    "gemma-embedding": (11, 6.3),
    "eurobert": (11.5, 6.5),
}


def inter_gpu_copy_bytes(ubatch: Ubatch, used: list[range], index: int) -> int:
    """Bytes of all copies on device `index` of `used`, without masks."""
    shape, tokens = ubatch.shape, ubatch.w.tokens
    e = 4 * tokens * shape.graph.embd
    if shape.graph.architecture in arch.ATTENDS_TO_BATCH:
        first, other = _ENCODERS.get(shape.graph.architecture, (11.5, 6))
        return round((other if index else first) * e)
    per_residual = 3 if shape.graph.architecture in _WITHOUT_FIRST_NORM else 7
    usual = 12 * e if index == 0 else per_residual * e
    return usual + _family_copies(shape, tokens, used, index) + MAX_COPIES * shared_cache_bytes(ubatch, used[index])


def _family_copies(shape: ModelShape, tokens: int, used: list[range], index: int) -> int:
    """Additional copies of particular architectures."""
    graph, e = shape.graph, 4 * tokens * shape.graph.embd
    family = graph.architecture
    if family in _DEEPSTACK:
        return (8 * graph.deepstack - 4) * e if index == 0 else 0
    if family == "gemma4" and graph.per_layer:
        return 8 * tokens * graph.per_layer + 4 * e if index == 0 else 0
    if family in EXPERTS_ON_CPU:
        return _experts_from_cpu(shape, tokens, used[index])
    if family == "gemma3n":
        return _altup(shape, tokens, used, index)
    if family not in _MAMBA + _MAMBA2 + _RWKV:
        return 0
    begins = index > 0 and _is_state(shape, used[index].start)
    ends = index + 1 < len(used) and _is_state(shape, used[index + 1].start)
    if family in _RWKV:
        return 10 * e * begins + 4 * e * ends
    into = graph.ssm_in if family in _MAMBA2 else 2 * graph.inner
    # The projection's view is copied over, its gate is copied back to where the norm is computed.
    return 4 * tokens * MAX_COPIES * (into * begins + graph.inner * ends)


def _is_state(shape: ModelShape, layer: int) -> bool:
    return layer < shape.hparams.n_layer and shape.hparams.has_state[layer]


def _experts_from_cpu(shape: ModelShape, tokens: int, layers: range) -> int:
    """What the CPU computed for each layer, for all tokens; the last layer computes one token of each slot."""
    each = 4 * tokens * shape.graph.embd * shape.graph.experts_used
    count = min(layers.stop, shape.hparams.n_layer - 1) - layers.start
    return (MAX_COPIES * count - 2) * each + 5 * tokens * shape.graph.embd // 2 if count > 0 else 0


def _altup(shape: ModelShape, tokens: int, used: list[range], index: int) -> int:
    """gemma3n has four residual streams, and every layer reads its own part of the per-layer embeddings."""
    graph, e = shape.graph, 4 * tokens * shape.graph.embd
    layers = used[index]
    if index == 0:
        return MAX_COPIES * (7 * e + 4 * tokens * graph.per_layer)
    own = 4 * tokens * graph.per_layer // max(1, shape.hparams.n_layer) * len(layers)
    peak_without = 4 * tokens * graph.per_layer + 8 * e  # part of the single-device peak, stays on the first
    output = 43 * e // 2 if shape.hparams.n_layer_all in layers else 0
    return MAX_COPIES * (7 * e + own) - peak_without + e + output


def shared_cache_bytes(ubatch: Ubatch, layers: range) -> int:
    """Copies for layers without a cache of their own whose source cache is on another device."""
    cells = ubatch.cells
    hp = ubatch.shape.hparams
    if hp.architecture not in arch.WITH_SHARED_CACHES:
        return 0
    owners = sum(hp.has_kv)
    total = 0
    for il in layers:
        if not owners <= il < hp.n_layer:
            continue
        source = owners - (2 if hp.is_windowed[il] else 1)
        if source in layers:
            continue
        windowed = hp.is_windowed[source]
        heads, count = hp.n_head_kv[source], cells.window if windowed else cells.base
        each = row_bytes(heads * hp.k_head(windowed), ubatch.options.cache_type_k)
        each += row_bytes(heads * hp.v_head(windowed), ubatch.options.cache_type_v)
        total += cells.streams * count * each
    return total
