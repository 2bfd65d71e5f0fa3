"""Replayed attention: the tensors of a layer's attention, allocated in the order of its graph.

llama.cpp b11549, llama-graph.cpp: build_qkv, build_attn.
"""

from __future__ import annotations

from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.kv_cache import row_bytes
from app.use_cases.estimate.tensor_allocator import Allocation

_KEYS_BEFORE_VALUES = frozenset({"cohere2", "command-r"})


def attention(replay: GraphReplay, normed: Allocation) -> Allocation:
    """The result of attention, before the output matrix. `normed` is its input."""
    queries = _queries(replay, () if replay.is_parallel else (normed,))
    layer, w, types = replay.layer, replay.w, (replay.options.cache_type_k, replay.options.cache_type_v)
    cells = replay.cells_read(layer) * replay.cells.streams
    copied: list[Allocation] = []
    if replay.has_cache_in_ram:
        copied = [replay.allocate(cells * row_bytes(*each)) for each in zip((layer.k, layer.v), types, strict=True)]
    replay.allocate_mask(layer)
    replay.residual = replay.residual or replay.allocate(w.e)
    if not replay.flash:
        return _without_flash_attention(replay, queries, copied)
    converted = sum(width for width, each in zip((layer.k, layer.v), types, strict=True) if each != "f16")
    size = w.width(layer.attended) + 2 * cells * converted * replay.shape.graph.has_flash_attention
    return replay.compute(size, queries, *copied)


def _without_flash_attention(replay: GraphReplay, queries: Allocation, copied: list[Allocation]) -> Allocation:
    """The scores of all cells are a tensor, and so is their product with V."""
    size = replay.w.width(replay.layer.attended)
    pairs = replay.shape.graph.heads * replay.cells_read(replay.layer)
    scores = replay.compute(replay.w.width(pairs), queries, *copied[:1])
    product = replay.compute(size, scores, *copied[1:])
    return replay.compute(size, product)


def output(replay: GraphReplay, attended: Allocation) -> Allocation:
    """The product with the output matrix."""
    if replay.rotates_v:
        attended = replay.compute(replay.w.width(replay.layer.attended), attended)
    return replay.mul_mat("attn_output", replay.w.e, attended)


def _queries(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> Allocation:
    """The queries; keys and values are freed once they are in the cache, `inputs` after the last product."""
    if "attn_qkv" in replay.layer.weights:
        queries, *others = _fused(replay, inputs)
    else:
        queries, *others = _separate(replay, inputs)
    if not replay.has_cache_in_ram:
        replay.allocate_cache_indexes()
    replay.free(*others)
    return queries


def _fused(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> list[Allocation]:
    q, k, v = _sizes(replay)
    weight = replay.weight("attn_qkv")
    if not replay.has_rope_weights:
        replay.allocate_positions()
    product = replay.compute(q + k + v, weight, *inputs)
    return [_rotated(replay, q), _rotated(replay, k), product] if replay.uses_rope else [product]


def _separate(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> list[Allocation]:
    """Queries, keys and values."""
    q, k, v = _sizes(replay)
    if replay.architecture in _KEYS_BEFORE_VALUES:
        queries, keys = _projected(replay, "attn_q", q), _projected(replay, "attn_k", k)
        return [queries, keys, _values(replay, replay.mul_mat("attn_v", v, *inputs))]
    if not (replay.has_weights_in_ram and replay.has_rope_weights and replay.has_positions):
        queries = _projected(replay, "attn_q", q)
        values = _values(replay, replay.mul_mat("attn_v", v))
    else:  # RoPE's factors are in RAM too: RoPE begins a split, and the next weight is copied in at its start.
        product = replay.mul_mat("attn_q", q)
        weight = replay.weight("attn_v")
        queries = _rotated(replay, q, product)
        values = _values(replay, replay.compute(v, weight))
    return [queries, _projected(replay, "attn_k", k, *inputs), values]


def _sizes(replay: GraphReplay) -> tuple[int, int, int]:
    return replay.w.width(replay.layer.q), replay.w.width(replay.layer.k), replay.w.width(replay.layer.v)


def _projected(replay: GraphReplay, kind: str, size: int, *inputs: Allocation) -> Allocation:
    """Queries or keys. RoPE cannot work in place: it reads the product through a view."""
    weight = replay.weight(kind)
    if not replay.has_rope_weights and "attn_q_norm" not in replay.layer.weights:
        replay.allocate_positions()
    product = replay.compute(size, weight, *inputs)
    return _rotated(replay, size, product) if replay.uses_rope else product


def _rotated(replay: GraphReplay, size: int, *product: Allocation) -> Allocation:
    """After RoPE. A cache that is quantized may be rotated once more (attn_rot_k)."""
    if replay.has_rope_weights:
        replay.allocate_positions()
    result = replay.compute(size, *product)
    replay.allocate_positions()
    return replay.compute(size, result) if replay.rotates_k else result


def _values(replay: GraphReplay, product: Allocation) -> Allocation:
    return replay.compute(product[1], product) if replay.rotates_v else product
