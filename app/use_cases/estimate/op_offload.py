"""Op offload: formulas for weights and caches that stay in RAM and are copied to a GPU to compute with them.

llama.cpp does so for every batch of at least 32 tokens (op_offload; ggml-backend.cpp, ggml_backend_sched_split_graph).
The rules are fitted to its own accounting (b11434, no_alloc: bench/data/vram), for starts that are not replayed
(replayed_layers.py).
"""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.expert_copies import copied_experts_bytes
from app.use_cases.estimate.graph_rules import dense, encoder
from app.use_cases.estimate.kv_cache import is_plain, is_quantized, row_bytes
from app.use_cases.estimate.peaks import attention_bytes
from app.use_cases.estimate.tensor_overrides import MovedTensors
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape, between


def experts_all_in_ram(shape: ModelShape, options: ModelOptions, moved: MovedTensors, layers: range) -> bool:
    """Whether the experts of all these layers are in RAM."""
    own = [il for il in layers if il < shape.hparams.n_layer]
    return bool(shape.graph.expert_ff) and all(il < options.n_cpu_moe or il in moved.emptied for il in own)


def only_copies(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> bool:
    """Whether the first device has no layers but computes with weights from RAM: ggml copies them to the first that can
    (ggml-backend.cpp, ggml_backend_sched_backend_id_from_cur), not to the first that has layers."""
    if not any(ranges) or ranges[0]:
        return False
    return ranges[0].start > 0 or bool(shape.graph.expert_ff and options.n_cpu_moe)


def loses_flash_attention(shape: ModelShape, options: ModelOptions, first_gpu_layer: int) -> bool:
    """Whether flash_attn "auto" may resolve to off because of the first GPU layer.

    It does if attention and its cache are on different devices (b11434, llama-context.cpp). In these architectures
    that happens to the last layer in RAM if the next one has no attention: not with every model, but then the attention
    scores take hundreds of MiB.
    """
    if shape.graph.architecture not in ("lfm2", "jamba", "nemotron_h") or options.flash_attn != "auto":
        return False
    if is_quantized(options.cache_type_v):  # requires flash attention: llama.cpp would not start without
        return False
    has_kv = shape.hparams.has_kv
    return 0 < first_gpu_layer < shape.hparams.n_layer and has_kv[first_gpu_layer - 1] and not has_kv[first_gpu_layer]


def op_offload_bytes(ubatch: Ubatch, first_gpu_layer: int, moved: MovedTensors) -> int:
    """Peak bytes of the first device while it computes with tensors from RAM, without masks; 0 if none are in RAM."""
    w = ubatch.w
    candidates = [0]
    if first_gpu_layer > 0:
        deepstack = 3 * ubatch.shape.graph.deepstack * w.e  # image features for the first layers are copied in too
        candidates.append(_layers(ubatch, first_gpu_layer) + deepstack)
    if moved.emptied or ubatch.options.n_cpu_moe:
        candidates.append(copied_experts_bytes(ubatch, moved))
    if moved.largest_dense_bytes:
        candidates.append(moved.largest_dense_bytes + 2 * w.ff + (5 if moved.largest_other_bytes else 4) * w.e)
    return max(candidates)


def _layers(ubatch: Ubatch, first_gpu_layer: int) -> int:
    shape, w = ubatch.shape, ubatch.w
    largest = max(shape.largest_bytes[:first_gpu_layer], default=0)
    if shape.hparams.has_looped_layers:  # copied in for the first pass, held until the last one
        largest = between(shape.host_layers, 0, first_gpu_layer)
    if shape.graph.architecture in arch.ATTENDS_TO_BATCH:
        return largest + encoder(w, flash=True)  # attention that CUDA does not support stays on the CPU
    # How much of the next layer's cache is held with the first one's depends on the gaps ggml-alloc finds.
    cache = max((_cache_bytes(ubatch, il) for il in range(first_gpu_layer)), default=0)
    converted = attention_bytes(ubatch, range(first_gpu_layer))
    # A cache of another type than f16 is converted on the GPU, beside its copy (ggml-cuda/fattn.cu).
    attention = cache + converted + w.e if converted else cache * 5 // 4 + 5 * max(w.q, w.e)
    if w.shape.is_parallel and not ubatch.options.n_gpu_layers:
        attention = max(attention, largest + cache + 5 * max(w.q, w.e))
    if w.shape.expert_ff:
        return max(largest + w.expert_ff + w.expert_e + 5 * w.e, attention)
    return max(largest + w.ff + 8 * w.e, dense(w) + 3 * w.e, attention)


def _cache_bytes(ubatch: Ubatch, il: int) -> int:
    cells = ubatch.cells
    total = 0
    for cache, count in ((ubatch.shape.base, cells.base), (ubatch.shape.window, cells.window)):
        total += count * row_bytes(between(cache.k_width, il, il + 1), ubatch.options.cache_type_k)
        total += count * row_bytes(between(cache.v_width, il, il + 1), ubatch.options.cache_type_v)
    return cells.streams * total


def with_cache_in_ram(ubatch: Ubatch, peak: int, has_inputs: bool) -> int:
    """Peak with the KV cache in RAM: each layer's K and V are copied in for its attention, and converted if they are
    not f16; `has_inputs`: on the device of the graph's inputs, with all layers on GPUs.

    The first mask follows the copies. Where the inputs have left no gaps, the next small tensor goes where K was, so
    that V no longer fits in front of the mask (b11549, ggml-alloc.c, ggml_dyn_tallocr_alloc).
    """
    shape, options, w = ubatch.shape, ubatch.options, ubatch.w
    values = ubatch.cells.streams * ubatch.cells.base
    k, v = shape.widest_base
    cache = row_bytes(values * k, options.cache_type_k) + row_bytes(values * v, options.cache_type_v)
    shares_caches = not all(shape.hparams.has_kv) and not any(shape.hparams.has_state)
    if shares_caches:  # and keeps the copies alive for longer
        return peak + 9 * cache // 2
    converted = 0 if is_plain(options) else 2 * values * (k + v)
    values_moved = 0 if has_inputs else row_bytes(values * v, options.cache_type_v)
    attention = cache + converted + values_moved + 5 * max(w.q, w.e)
    if w.shape.expert_ff or not w.ff:
        return max(peak + min(cache, 3 * w.e), attention)
    inside = max(0, cache - w.e) // w.ff  # tensors of the network that fit where K and V were
    outside = max(0, (3 if w.shape.is_gated else 1) - inside) * w.ff
    return max(peak, cache + outside + 3 * w.e if outside else 0, attention)
