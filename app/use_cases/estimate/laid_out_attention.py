"""The tensors of a layer's attention in their order (llama.cpp b11549, llama-graph.cpp: build_qkv, build_attn)."""

from __future__ import annotations

from app.use_cases.estimate.arena import Room
from app.use_cases.estimate.kv_cache import row_bytes
from app.use_cases.estimate.layout import Layout

_KEYS_BEFORE_VALUES = frozenset({"cohere2", "command-r"})


def attention(to: Layout, normed: Room) -> Room:
    """What attention returns, before the output matrix."""
    queries = _queries(to, () if to.is_parallel else (normed,))
    layer, w, types = to.layer, to.w, (to.options.cache_type_k, to.options.cache_type_v)
    cached = to.count(layer) * to.cells.streams
    held: list[Room] = []
    if to.has_cache_in_ram:
        held = [to.take(cached * row_bytes(*each)) for each in zip((layer.k, layer.v), types, strict=True)]
    to.take_mask(layer)
    to.residual = to.residual or to.take(w.e)
    if not to.flash:
        return _materialized(to, queries, held)
    converted = sum(width for width, each in zip((layer.k, layer.v), types, strict=True) if each != "f16")
    size = w.width(layer.attended) + 2 * cached * converted * to.shape.graph.has_flash_attention
    return to.instead_of(queries, *held, size=size)


def _materialized(to: Layout, queries: Room, held: list[Room]) -> Room:
    size = to.w.width(to.layer.attended)
    scores = to.instead_of(queries, *held[:1], size=to.w.width(to.shape.graph.heads * to.count(to.layer)))
    product = to.instead_of(scores, *held[1:], size=size)
    return to.instead_of(product, size=size)


def output(to: Layout, attended: Room) -> Room:
    """The product with the output matrix."""
    if to.rotates_v:
        attended = to.instead_of(attended, size=to.w.width(to.layer.attended))
    return to.times("attn_output", to.w.e, attended)


def _queries(to: Layout, read: tuple[Room, ...]) -> Room:
    """The queries; keys and values are written to the cache and gone. `read`: what is gone after the three."""
    if "attn_qkv" in to.layer.weights:
        queries, *others = _fused(to, read)
    else:
        queries, *others = _separate(to, read)
    if not to.has_cache_in_ram:
        to.take_indexes()
    to.free(*others)
    return queries


def _fused(to: Layout, read: tuple[Room, ...]) -> list[Room]:
    q, k, v = _sizes(to)
    weight = to.weight("attn_qkv")
    if not to.has_rope_weights:
        to.take_positions()
    product = to.instead_of(weight, *read, size=q + k + v)
    return [_rotated(to, q), _rotated(to, k), product] if to.rotates else [product]


def _separate(to: Layout, read: tuple[Room, ...]) -> list[Room]:
    """Queries, keys and values."""
    q, k, v = _sizes(to)
    if to.architecture in _KEYS_BEFORE_VALUES:
        return [_projected(to, "attn_q", q), _projected(to, "attn_k", k), _values(to, to.times("attn_v", v, *read))]
    if not (to.is_in_ram and to.has_rope_weights and to.has_positions):
        queries = _projected(to, "attn_q", q)
        values = _values(to, to.times("attn_v", v))
    else:  # The rotation's factors are in RAM too: it begins a split, in which the next weight is copied.
        product = to.times("attn_q", q)
        weight = to.weight("attn_v")
        queries = _rotated(to, q, product)
        values = _values(to, to.instead_of(weight, size=v))
    return [queries, _projected(to, "attn_k", k, *read), values]


def _sizes(to: Layout) -> tuple[int, int, int]:
    return to.w.width(to.layer.q), to.w.width(to.layer.k), to.w.width(to.layer.v)


def _projected(to: Layout, kind: str, size: int, *read: Room) -> Room:
    """Queries or keys. Rotated they cannot take the place of the product, which is read through a view."""
    weight = to.weight(kind)
    if not to.has_rope_weights and "attn_q_norm" not in to.layer.weights:
        to.take_positions()
    product = to.instead_of(weight, *read, size=size)
    return _rotated(to, size, product) if to.rotates else product


def _rotated(to: Layout, size: int, *product: Room) -> Room:
    if to.has_rope_weights:
        to.take_positions()
    found = to.instead_of(*product, size=size)
    to.take_positions()
    return to.instead_of(found, size=size) if to.rotates_k else found


def _values(to: Layout, product: Room) -> Room:
    return to.instead_of(product, size=product[1]) if to.rotates_v else product
