"""Sequential: compute buffers of devices that work one after the other on a ubatch, without a pipeline."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import Task
from app.use_cases.estimate.graph_rules import OTHER_GRAPHS, Work
from app.use_cases.estimate.op_offload import (
    experts_all_in_ram,
    loses_flash_attention,
    only_copies,
    op_offload_bytes,
    with_cache_in_ram,
)
from app.use_cases.estimate.peaks import attention_bytes, mask_bytes, output_alone_bytes, peak_bytes
from app.use_cases.estimate.pipeline_copies import shared_cache_bytes
from app.use_cases.estimate.tensor_overrides import MovedTensors, moved_tensors
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape


def sequential_bytes(ubatch: Ubatch, ranges: list[range], used: list[range]) -> list[int]:
    """Bytes on each device in `used`, masks included."""
    shape, options, w = ubatch.shape, ubatch.options, ubatch.w
    is_encoder = shape.graph.architecture in arch.ATTENDS_TO_BATCH
    first_gpu_layer = used[0].start if any(ranges) else shape.hparams.n_layer * bool(options.devices)
    moved = moved_tensors(shape, options, ranges)
    copies_first = only_copies(shape, options, ranges)
    actual = replace(ubatch, flash=_keeps_flash_attention(ubatch, ranges, first_gpu_layer))
    totals = [_device_bytes(actual, layers, moved, index) for index, layers in enumerate(used, start=int(copies_first))]
    if copies_first:
        return totals
    first_mask = mask_bytes(actual, range(used[0].stop))
    if options.devices and not any(ranges) and options.task is not Task.COMPLETION and not is_encoder:
        logits = 4 * shape.graph.vocab * w.tokens + 7 * w.e // 2  # the output matrix is copied in
        totals[0] = max(totals[0], shape.output_bytes + logits + first_mask)
    if options.devices:
        totals[0] = max(totals[0], op_offload_bytes(ubatch, first_gpu_layer, moved) + first_mask)
    return totals


def _keeps_flash_attention(ubatch: Ubatch, ranges: list[range], first_gpu_layer: int) -> bool:
    """Encoders without layers on a GPU compute attention on the CPU, if the GPU does not support it."""
    shape, options = ubatch.shape, ubatch.options
    is_copying = shape.graph.architecture in arch.ATTENDS_TO_BATCH and options.devices > 0 and not any(ranges)
    flash = ubatch.flash or (is_copying and options.flash_attn != "off")
    return flash and not loses_flash_attention(shape, options, first_gpu_layer)


def _device_bytes(ubatch: Ubatch, layers: range, moved: MovedTensors, index: int) -> int:
    if index and layers.start >= ubatch.shape.hparams.n_layer:
        return output_alone_bytes(ubatch)
    peak = _peak(ubatch, layers, moved, index)
    return peak + mask_bytes(ubatch, layers)


def _peak(ubatch: Ubatch, layers: range, moved: MovedTensors, index: int) -> int:
    """Peak bytes on device `index` of those in use, without pipelining and masks."""
    options, w = ubatch.options, ubatch.w
    if index > 0 and experts_all_in_ram(ubatch.shape, options, moved, layers):  # they are computed on the first device
        peak = max(_without_experts(ubatch.shape, w), attention_bytes(ubatch, layers))
    else:
        peak = peak_bytes(ubatch, layers, has_inputs=layers.start == 0)
    if not options.kv_offload and options.devices:
        peak = with_cache_in_ram(ubatch, peak, has_inputs=layers.start == 0)
    elif layers.start > 0:
        peak += shared_cache_bytes(ubatch, layers)
    return peak - (2 * w.e if index else 0)  # the two embedding inputs are on the first device only


def _without_experts(shape: ModelShape, w: Work) -> int:
    """Layers whose experts are computed on another device."""
    other = OTHER_GRAPHS.get(shape.graph.architecture) if not shape.graph.deepstack else None  # of its experts
    return max(2 * w.q + (3 if shape.graph.shared_ff else 2) * w.e + 2 * w.e, other(w) if other else 0)
