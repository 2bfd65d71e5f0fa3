"""What a draft head needs beside its model, in bytes per device and in RAM.

Fitted to llama.cpp's own accounting on one GPU (b11549, bench/data/vram: set "head"). A head is not a second model: it
computes logits of a whole ubatch, has no cache of layers that its file lacks, and reads what the model computes.
"""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import DRAFTS_ITSELF, ModelOptions
from app.entities.memory import DeviceMemory
from app.use_cases.estimate.compute import drafting_compute_bytes
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import (
    cache_cells,
    context_bytes,
    drafting_context_bytes,
    host_context_bytes,
    is_quantized,
)
from app.use_cases.estimate.tensor_split import device_layers
from app.use_cases.estimate.ubatch import graph_work
from app.use_cases.estimate.weights import weights
from app.use_cases.model_shape.draft_head import ASSISTANTS, DFLASH, DSPARK, EAGLE3
from app.use_cases.model_shape.shape import ModelShape

HEAD_TYPES = frozenset({DRAFTS_ITSELF, EAGLE3, DFLASH, DSPARK})
_MAPPING = "d2t"  # which tokens of the model's vocabulary a smaller one of the head stands for
_F16 = 2


def head_needs(
    head: ModelShape, model: ModelShape, options: ModelOptions, model_options: ModelOptions
) -> tuple[list[DeviceMemory], DeviceMemory]:
    """`options`: the head's, with the context of its model. Of several GPUs, each that has a part of the head is
    booked as if it computed all of it."""
    ranges = device_layers(head.hparams, options)
    on_devices, in_ram = weights(head, replace(options, speculation=DRAFTS_ITSELF), ranges)
    context, host_context = _context(head, options, ranges)
    compute, host_compute = _compute(head, model, options, model_options)
    host = DeviceMemory(in_ram, host_context, host_compute + _read_layers_bytes(head, model, options))
    if not ranges:
        return [], replace(host, compute_bytes=compute + host.compute_bytes)
    each = zip(on_devices, context, _computing(head, ranges), strict=True)
    return [DeviceMemory(w, c, compute if computes else 0) for w, c, computes in each], host


def _computing(head: ModelShape, ranges: list[range]) -> list[bool]:
    """Whether each device has layers of the head; those of a model that the file lacks do not count."""
    hp = head.hparams
    is_part = hp.n_layer < hp.n_layer_all and hp.architecture not in ASSISTANTS
    first = hp.n_layer if is_part else 0
    return [bool(layers) and layers.stop > first for layers in ranges]


def _context(head: ModelShape, options: ModelOptions, ranges: list[range]) -> tuple[list[int], int]:
    if head.hparams.architecture in ASSISTANTS:
        return [0] * len(ranges), 0
    if head.hparams.n_layer == head.hparams.n_layer_all:
        found = context_bytes(head, options, ranges)
        return found, host_context_bytes(head, options, ranges)
    size = drafting_context_bytes(head, options)
    if not ranges or not options.kv_offload:
        return [0] * len(ranges), size
    return [size if head.hparams.n_layer in layers else 0 for layers in ranges], 0


def _compute(
    head: ModelShape, model: ModelShape, options: ModelOptions, model_options: ModelOptions
) -> tuple[int, int]:
    cells = cache_cells(model, options)
    w, mask = graph_work(head, options, cells), _F16 * cells.base
    host = w.tokens * mask + 4 * w.tokens * (2 * model.graph.embd + head.graph.embd)
    if head.hparams.architecture in ASSISTANTS:
        copied = _cache_as_f16(model, cells.base * cells.streams) if is_quantized(model_options.cache_type_k) else 0
        return _assistant_bytes(w) + w.tokens * mask + copied, host
    if head.hparams.architecture in ("eagle3", "dflash"):
        return _logits_bytes(head, model, w) + w.tokens * mask, host
    return drafting_compute_bytes(head, options)


def _assistant_bytes(w: Work) -> int:
    return 3 * max(w.ff, w.q) + 7 * w.e


def _logits_bytes(head: ModelShape, model: ModelShape, w: Work) -> int:
    """Of all tokens, in the head's vocabulary and in that of the model."""
    mappings = (tensor.shape[0] for tensor in head.hparams.header.tensors if tensor.name == _MAPPING)
    own = next(mappings, 0)
    return w.width(model.graph.vocab + own) + (5 if own else 2) * w.e


def _cache_as_f16(model: ModelShape, cells: int) -> int:
    """A quantized cache of the model is copied for attention."""
    return _F16 * cells * sum(model.widest_base)


def _read_layers_bytes(head: ModelShape, model: ModelShape, options: ModelOptions) -> int:
    """In RAM: the inputs of the model's layers that the head reads (llama-context.cpp, output_reserve)."""
    read = head.hparams.value("target_layers")
    count = len(read) if isinstance(read, tuple) else 1
    return 4 * count * model.graph.embd * options.batch_tokens
