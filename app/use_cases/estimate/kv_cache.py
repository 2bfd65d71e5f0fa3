"""Bytes of the KV cache and of recurrent state.

Source: llama.cpp b11434, src/llama-context.cpp (cells and streams), llama-kv-cache.cpp, llama-kv-cache-iswa.cpp,
llama-kv-cache-dsa.cpp, llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.entities.launch import CELLS_PADDING, DRAFTS_ITSELF, ModelOptions
from app.use_cases.estimate.compressed_caches import compressed_values, compressor_bytes
from app.use_cases.model_shape.shape import Cache, ModelShape, between

# Bytes and values per block (ggml-common.h) of the types that --cache-type-k and -v accept.
CACHE_TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q5_1": (24, 32),
    "q5_0": (22, 32),
    "q4_1": (20, 32),
    "q4_0": (18, 32),
    "iq4_nl": (18, 32),
}
CHECKPOINTS = 32  # of each slot (--ctx-checkpoints, server-context.cpp of b11434)
ROLLS_BACK = frozenset({DRAFTS_ITSELF, "draft-eagle3", "draft-dflash", "draft-dspark"})  # common: need_n_rs_seq


@dataclass(frozen=True, slots=True)
class CacheCells:
    """Capacity of the caches in tokens. A unified cache is one stream shared by all slots."""

    ctx: int  # of all streams
    base: int  # of one stream
    window: int  # of one stream, in layers with a sliding window
    streams: int


def cache_cells(shape: ModelShape, options: ModelOptions) -> CacheCells:
    """Cache capacities, rounded up as in llama.cpp (llama-context.cpp, llama-kv-cache-iswa.cpp)."""
    ctx = padded(options.ctx_size or shape.hparams.integer("context_length"))
    slots = max(1, options.parallel)
    if shape.compressed:
        return _cells_of_each_slot(shape, options, ctx, slots)
    base = ctx if options.kv_unified else padded(max(1, ctx // slots))
    streams = 1 if options.kv_unified else slots
    window_cells = shape.hparams.window_tokens * (slots if options.kv_unified else 1) + tokens_at_once(shape, options)
    window = base if options.swa_full else padded(min(base, window_cells))
    return CacheCells(base * streams, base, window, streams)


def tokens_at_once(shape: ModelShape, options: ModelOptions) -> int:
    """Tokens of one graph. Causal attention limits them to the context as it was requested: llama.cpp rounds it up, and
    shares it out to the slots, only afterwards (b11549, llama-context.cpp, llama_context: n_batch, then GGML_PAD)."""
    tokens = min(options.batch_tokens, options.ubatch_tokens)
    requested = options.ctx_size or shape.hparams.integer("context_length")
    return min(tokens, requested) if shape.hparams.is_causal else tokens


def _cells_of_each_slot(shape: ModelShape, options: ModelOptions, ctx: int, slots: int) -> CacheCells:
    """Of caches that are never unified."""
    base = ctx if options.kv_unified else padded(max(1, ctx // slots))
    window_cells = shape.hparams.window_tokens + tokens_at_once(shape, options)
    window = base if options.swa_full else padded(min(base, window_cells))
    return CacheCells(ctx if options.kv_unified else base * slots, base, window, slots)


def context_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> list[int]:
    """Bytes of context on each device."""
    n = shape.hparams.n_layer_all
    cells = cache_cells(shape, options)
    return [_context(shape, options, cells, layers.start, min(layers.stop, n)) for layers in ranges]


def host_context_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> int:
    """Bytes of context in RAM: of the layers that are on no device."""
    first = ranges[0].start if options.kv_offload and options.devices else shape.hparams.n_layer_all
    return _context(shape, options, cache_cells(shape, options), 0, min(first, shape.hparams.n_layer_all))


def drafting_context_bytes(shape: ModelShape, options: ModelOptions) -> int:
    """Cache bytes of the MTP drafting context."""
    cells = cache_cells(shape, options)
    return sum(
        cells.base
        * cells.streams
        * (row_bytes(k, options.draft_cache_type_k) + row_bytes(v, options.draft_cache_type_v))
        for k, v in shape.drafting
    )


def checkpoint_bytes(shape: ModelShape, options: ModelOptions) -> int:
    """The most RAM that context checkpoints take: CHECKPOINTS copies for each slot of what cannot be rolled back, which
    are its sliding windows and its recurrent state (create_checkpoint in server-context.cpp)."""
    n = shape.hparams.n_layer_all
    window = cache_cells(shape, replace(options, parallel=1)).window
    widths = ((shape.window.k_width, options.cache_type_k), (shape.window.v_width, options.cache_type_v))
    windows = sum(row_bytes(between(sums, 0, n), cache_type) for sums, cache_type in widths)
    states = _states(options) * between(shape.state_bytes, 0, n)
    return CHECKPOINTS * max(1, options.parallel) * (window * windows + states)


def _context(shape: ModelShape, options: ModelOptions, cells: CacheCells, start: int, stop: int) -> int:
    if stop <= start:
        return 0
    pads_v = options.flash_attn == "off"
    total = 0
    for cache, count in ((shape.base, cells.base), (shape.window, cells.window)):
        k, v = _widths(shape, cache, start, stop, pads_v)
        total += cells.streams * count * row_bytes(k, options.cache_type_k)
        total += cells.streams * count * row_bytes(v, options.cache_type_v)
        total += _padding(options.cache_type_k, between(cache.k_padding, start, stop))
        total += _padding(options.cache_type_v, between(cache.v_padding, start, stop))
    indexer = between(shape.indexer_width, start, stop)
    total += cells.streams * cells.base * row_bytes(indexer, options.cache_type_k)
    total += cells.streams * cells.base * row_bytes(between(shape.indexer_v_width, start, stop), options.cache_type_v)
    if shape.compressed:
        total += cells.streams * row_bytes(compressed_values(shape, cells.base, start, stop), options.cache_type_k)
        total += cells.streams * _states(options) * compressor_bytes(shape, start, stop)
    return total + max(1, options.parallel) * _states(options) * between(shape.state_bytes, start, stop)


def _states(options: ModelOptions) -> int:
    """Copies of a slot's recurrent state: one more for every draft token that may have to be rolled back."""
    return 1 + options.draft_max if options.speculation in ROLLS_BACK else 1


def _widths(shape: ModelShape, cache: Cache, start: int, stop: int, pads_v: bool) -> tuple[int, int]:
    k, v = between(cache.k_width, start, stop), between(cache.v_width, start, stop)
    return k, shape.v_width_max * between(cache.layers, start, stop) if pads_v and v else v


def _padding(cache_type: str, values: int) -> int:
    return row_bytes(values, cache_type) if is_quantized(cache_type) else 0


def is_plain(options: ModelOptions) -> bool:
    """Whether flash attention reads the cache as it is."""
    return (options.cache_type_k, options.cache_type_v) == ("f16", "f16")


def is_quantized(cache_type: str) -> bool:
    """Whether the type stores values in blocks."""
    return CACHE_TYPES[cache_type][1] > 1


def row_bytes(values: int, cache_type: str) -> int:
    """Bytes of `values` values (ggml_row_size); also of the summed widths of several layers."""
    size, block = CACHE_TYPES[cache_type]
    return values * size // block


def padded(tokens: int) -> int:
    return tokens + -tokens % CELLS_PADDING
