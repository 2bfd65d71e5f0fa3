"""Attention bias of T5: one value for each head, token and cell, by how far the two are apart.

Flash attention does not support it (b11549, llama-graph.cpp, build_attn_mha), so three tensors of the scores' size are
alive: the scores, the bias, and the bias before it is transposed. The distances are copied in for each layer, all at
the start of the graph. Only block 0 has the bias's weights: its GPU also computes the scores of layers on other GPUs,
and a pipeline keeps their copies.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.use_cases.estimate.graph_rules import Work, dense
from app.use_cases.estimate.peaks import output_alone_bytes
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Bytes of one of each, and how many scores there are."""

    scores: int
    distances: int
    values: int  # of all cells, transposed
    masks: int
    mask_across: int  # of the decoder's attention to the encoder's output
    scores_at_once: int  # tensors; the fourth finds no gap if there are no more cells than the encoder has tokens


def has_attention_bias(shape: ModelShape) -> bool:
    """Whether the architecture adds a bias to its attention scores."""
    return shape.graph.architecture in arch.WITH_ATTENTION_BIAS


def biased_bytes(ubatch: Ubatch, used: list[range], copies: int) -> list[int]:
    """Bytes on each device in `used`; `copies`: how many the pipeline has, 0 without."""
    w = ubatch.w
    tensors = _encoder(w, ubatch.flash) if ubatch.shape.graph.architecture == "t5encoder" else _decoder(ubatch)
    return [_bytes(ubatch, tensors, used, index, copies) for index in range(len(used))]


def _encoder(w: Work, flash: bool) -> _Tensors:
    """T5's encoder has a KV cache but does not read it."""
    pairs = w.width(w.tokens)
    return _Tensors(w.shape.heads * pairs, pairs, w.width(w.shape.v), pairs // 2 if flash else pairs, 0, 3)


def _decoder(ubatch: Ubatch) -> _Tensors:
    shape, w, cells = ubatch.shape, ubatch.w, ubatch.cells
    encoded = shape.hparams.integer("context_length")
    pairs, across = w.width(cells.base), w.width(encoded)
    mask, mask_across = (pairs // 2, across // 2) if ubatch.flash else (pairs, across)
    values = 2 * shape.graph.v * cells.base
    return _Tensors(shape.graph.heads * pairs, pairs, values, mask, mask_across, 4 if cells.base <= encoded else 3)


def _bytes(ubatch: Ubatch, t: _Tensors, used: list[range], index: int, copies: int) -> int:
    w = ubatch.w
    layers, n = used[index], ubatch.shape.hparams.n_layer
    if index and layers.start >= n:
        return output_alone_bytes(ubatch, copies)
    if used[0].start:  # the bias's weights are in RAM: the bias is copied in
        return max(t.scores_at_once * t.scores + (4 if index else 6) * w.e, dense(w)) + t.masks + t.mask_across
    if index:
        returned = (min(layers.stop, n) - layers.start + 1 + (t.mask_across > 0)) * w.e + t.mask_across
        if not copies:
            return max(t.scores + 4 * w.e, dense(w)) + t.mask_across
        return (3 * t.scores_at_once - 8) * t.scores + 8 * w.e + copies * returned
    peak = max(t.scores_at_once * t.scores + t.values * (t.mask_across > 0) + 5 * w.e, dense(w))
    own = min(layers.stop, n)
    if not copies:
        return peak + own * t.distances + t.masks + t.mask_across
    others = (n - own) * (t.scores + t.values)
    return peak + copies * (n * t.distances + others + 3 * w.e + t.masks + t.mask_across)
