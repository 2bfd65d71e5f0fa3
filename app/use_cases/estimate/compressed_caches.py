"""Compressed caches of deepseek4: beside a sliding window, layers keep one key for every 4 or 128 tokens.

Source: llama.cpp b11549, src/llama-kv-cache-dsv4.cpp (llama_kv_cache_dsv4, llama_dsv4_comp_state). Every slot has
caches of its own, also if the cache is unified; there are no values.
"""

from __future__ import annotations

from app.entities.launch import CELLS_PADDING
from app.use_cases.model_shape.shape import ModelShape, between

OVERLAPPING_RATIO = 4  # blocks that overlap, with index keys of their own; the other ratio is 128


def compressed_values(shape: ModelShape, cells: int, start: int, stop: int) -> int:
    """Values in the caches of the layers, for one slot of `cells` tokens."""
    total = 0
    for ratio, layers in shape.compressed:
        width = shape.graph.k_head + (shape.indexer_head if ratio == OVERLAPPING_RATIO else 0)
        kept = -(-cells // ratio)
        total += between(layers, start, stop) * width * (kept + -kept % CELLS_PADDING)
    return total


def compressor_bytes(shape: ModelShape, start: int, stop: int) -> int:
    """Bytes of a slot's compressors: keys and scores in f32 of the blocks being filled."""
    total = 0
    for ratio, layers in shape.compressed:
        overlaps = ratio == OVERLAPPING_RATIO
        width = 2 * (shape.graph.k_head + shape.indexer_head) if overlaps else shape.graph.k_head
        total += between(layers, start, stop) * 2 * 4 * width * ratio * (2 if overlaps else 1)
    return total
