"""Replayed attention: the tensors of a layer's attention, allocated in the order of its graph.

llama.cpp b11549, llama-graph.cpp: build_qkv, build_attn.
"""

from __future__ import annotations

from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.kv_cache import row_bytes
from app.use_cases.estimate.tensor_allocator import Allocation

_KEYS_BEFORE_VALUES = frozenset({"command-r"})  # and all models with windows (build_attn)
_NORM_AFTER_ROPE = frozenset({"hunyuan-dense", "hunyuan-moe", "maincoder"})


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
    if replay.v_rotation_bytes:
        attended = replay.compute(replay.w.width(replay.layer.attended), attended)
    return replay.mul_mat("attn_output", replay.w.e, attended)


def _queries(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> Allocation:
    """The queries; keys and values are freed once they are in the cache, `inputs` after the last product."""
    if "attn_qkv" in replay.layer.weights:
        queries, *others = _fused(replay, inputs)
    else:
        queries, *others = _separate(replay, inputs)
    if not replay.has_cache_in_ram:
        replay.allocate_cache_indexes(replay.layer)
    replay.free(*others)
    return queries


def _fused(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> list[Allocation]:
    q, k, v = _sizes(replay)
    product = _product(replay, "attn_qkv", q + k + v, *inputs)
    if not (replay.layer.has_rope or replay.k_rotation_bytes):
        return [product, replay.allocate(v if replay.v_rotation_bytes else 0)]
    queries = _rotated(replay, q)
    values = replay.allocate(v if replay.v_rotation_bytes else 0)
    return [queries, _rotated(replay, k), product, values]


def _separate(replay: GraphReplay, inputs: tuple[Allocation, ...]) -> list[Allocation]:
    """Queries, keys and values."""
    q, k, v = _sizes(replay)
    if replay.architecture in _KEYS_BEFORE_VALUES or any(replay.shape.hparams.is_windowed):
        queries, keys = _projected(replay, "attn_q", q), _projected(replay, "attn_k", k)
        return [queries, keys, _values(replay, _product(replay, "attn_v", v, *inputs))]
    if not (replay.has_weights_in_ram and replay.has_rope_weights and replay.has_positions):
        queries = _projected(replay, "attn_q", q)
        values = _values(replay, _product(replay, "attn_v", v))
    else:  # RoPE's factors are in RAM too: RoPE begins a split, and the next weight is copied in at its start.
        product = replay.mul_mat("attn_q", q)
        weight = replay.weight("attn_v")
        replay.allocate_rotation("v", replay.layer)
        queries = _rotated(replay, q, product)
        values = _values(replay, replay.compute(v, weight))
    return [queries, _projected(replay, "attn_k", k, *inputs), values]


def _sizes(replay: GraphReplay) -> tuple[int, int, int]:
    return replay.w.width(replay.layer.q), replay.w.width(replay.layer.k), replay.w.width(replay.layer.v)


def _projected(replay: GraphReplay, kind: str, size: int, *inputs: Allocation) -> Allocation:
    """Queries or keys."""
    return _rotated(replay, size, _product(replay, kind, size, *inputs))


def _product(replay: GraphReplay, kind: str, size: int, *inputs: Allocation) -> Allocation:
    """With bias and norm, which work in place. What follows is in the last split that begins with one of their
    weights."""
    weight, after = replay.weight(kind), [f"{kind}.bias"]
    if replay.architecture not in _NORM_AFTER_ROPE:
        after.append(f"{kind}_norm")
    last = max(filter(replay.layer.weights.__contains__, after), key=after.index, default=kind)
    if last == kind:
        _allocate_inputs(replay, kind)
    product = replay.compute(size, weight, *inputs)
    for each in after:
        copied = replay.weight(each)
        if last == each:
            _allocate_inputs(replay, kind)
        replay.free(copied)
    return product


def _allocate_inputs(replay: GraphReplay, kind: str) -> None:
    if kind != "attn_v" and not replay.has_rope_weights:  # else with these
        replay.allocate_positions(replay.layer)
        replay.allocate_rotation("k", replay.layer)
    if kind != "attn_q" and kind != "attn_k":
        replay.allocate_rotation("v", replay.layer)


def _rotated(replay: GraphReplay, size: int, *product: Allocation) -> Allocation:
    """After RoPE, which cannot work in place: it reads the product through a view. A cache that is quantized may be
    rotated once more (attn_rot_k)."""
    if replay.has_rope_weights:
        replay.allocate_positions(replay.layer)
        replay.allocate_rotation("k", replay.layer)
    for _ in range(replay.layer.has_rope + (replay.k_rotation_bytes > 0)):
        product = (replay.compute(size, *product),)
    return product[0]


def _values(replay: GraphReplay, product: Allocation) -> Allocation:
    return replay.compute(product[1], product) if replay.v_rotation_bytes else product
