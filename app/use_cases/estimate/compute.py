"""Bytes of the compute buffers: the tensors of one graph that are alive at the same time.

The formulas for a device's layers are in peaks.py; with layers or the KV cache in RAM, the graph's allocations are
replayed instead (replayed_layers.py). In addition, ggml's scheduler keeps every input of a split in as many copies as
the pipeline has stages.
"""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.attention_bias import biased_bytes, has_attention_bias
from app.use_cases.estimate.attention_on_cpu import attends_on_cpu, without_attention_bytes
from app.use_cases.estimate.expert_copies import (
    experts_alone_bytes,
    one_copied_expert_bytes,
    uncounted_expert_bytes,
)
from app.use_cases.estimate.graph_rules import dense, experts
from app.use_cases.estimate.looped_layers import looped_bytes
from app.use_cases.estimate.op_offload import (
    only_copies,
    op_offload_bytes,
)
from app.use_cases.estimate.peaks import (
    logits_bytes,
    mask_bytes,
    output_alone_bytes,
    output_tokens,
    peak_bytes,
)
from app.use_cases.estimate.pipeline_copies import MAX_COPIES, inter_gpu_copy_bytes
from app.use_cases.estimate.replayed_layers import is_replayed, replayed_bytes
from app.use_cases.estimate.sequential import sequential_bytes
from app.use_cases.estimate.tensor_overrides import moved_tensors
from app.use_cases.estimate.ubatch import Ubatch, largest_ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape


def compute_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> list[int]:
    """Bytes of each device's compute buffer, 0 for a device that computes nothing; without devices, of the CPU's.

    The first device computes even without layers: weights in RAM are copied to it (op_offload.py).
    """
    if is_replayed(shape, options, ranges):
        return _replayed(shape, options, ranges)
    used = [layers for layers in ranges if layers] or [range(shape.hparams.n_layer_all + 1)]
    if len(used) > 1 and shape.graph.architecture in arch.WITHOUT_OUTPUT and not shape.graph.has_output_norm:
        # Without an output there is nothing to compute.
        used = [layers for layers in used if layers.start < shape.hparams.n_layer] or used[:1]
    sizes = iter(_device_bytes(shape, options, ranges, used))
    if not options.devices:
        return [next(sizes) + _cpu_extra_bytes(shape, options)]
    if not any(ranges):
        return [next(sizes), *[0] * (len(ranges) - 1)]
    found = [next(sizes) if layers in used else 0 for layers in ranges]
    if only_copies(shape, options, ranges):
        found[0] = _copying_bytes(shape, options, ranges)
    return found


def _replayed(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> list[int]:
    ubatch = largest_ubatch(shape, options)
    found = replayed_bytes(ubatch, ranges)
    for index, layers in enumerate(ranges):
        if shape.hparams.n_layer_all in layers:
            logits = logits_bytes if found[index] else output_alone_bytes
            found[index] = max(found[index], logits(ubatch))
    return found


def _copying_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> int:
    """Bytes on a first device that only computes with weights from RAM."""
    ubatch, moved = largest_ubatch(shape, options), moved_tensors(shape, options, ranges)
    in_ram = range(ranges[0].start)
    if not in_ram:
        return experts_alone_bytes(shape, ubatch.w)
    peak = peak_bytes(ubatch, in_ram, has_inputs=True)
    copied = op_offload_bytes(ubatch, in_ram.stop, moved)
    experts_copied = experts_alone_bytes(shape, ubatch.w) if options.n_cpu_moe else 0
    return max(peak, copied, experts_copied) + mask_bytes(ubatch, in_ram)


def _device_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range], used: list[range]) -> list[int]:
    """Bytes on each device in `used`."""
    ubatch, copies = largest_ubatch(shape, options), MAX_COPIES if is_pipelined(shape, options) else 0
    if has_attention_bias(shape):
        return biased_bytes(ubatch, used, copies)
    if attends_on_cpu(shape, options) and any(ranges):
        return without_attention_bytes(ubatch, used, copies)
    if copies:
        return [_pipelined_bytes(ubatch, used, index) for index in range(len(used))]
    return sequential_bytes(ubatch, ranges, used)


def _pipelined_bytes(ubatch: Ubatch, used: list[range], index: int) -> int:
    """Bytes on device `index` of those in use."""
    layers = used[index]
    masks = MAX_COPIES * mask_bytes(ubatch, layers)
    if ubatch.shape.hparams.has_looped_layers and len(used) > 1:
        return looped_bytes(ubatch, used, index) + masks
    if index and layers.start >= ubatch.shape.hparams.n_layer:
        return output_alone_bytes(ubatch, MAX_COPIES)
    peak = peak_bytes(ubatch, layers, has_inputs=False)
    return peak + masks + inter_gpu_copy_bytes(ubatch, used, index)


def _cpu_extra_bytes(shape: ModelShape, options: ModelOptions) -> int:
    """One embedding of all tokens, and the requested logits (with GPUs these are in pinned RAM)."""
    w = largest_ubatch(shape, options).w
    has_logits = shape.graph.architecture not in arch.ATTENDS_TO_BATCH
    return w.e + 4 * (shape.graph.vocab if has_logits else shape.graph.embd) * min(w.tokens, output_tokens(options, w))


def uncertain_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> int:
    """Bytes that the first device may need in addition, depending on gaps that the formulas do not know."""
    if not options.devices or not (options.n_cpu_moe or options.overrides) or is_replayed(shape, options, ranges):
        return 0
    return uncounted_expert_bytes(largest_ubatch(shape, options), moved_tensors(shape, options, ranges))


def host_compute_bytes(shape: ModelShape, options: ModelOptions) -> int:
    """Bytes in RAM for the graph: masks and embeddings to be copied to the devices."""
    ubatch = largest_ubatch(shape, options)
    e, mask = ubatch.w.e, mask_bytes(ubatch, range(shape.hparams.n_layer_all + 1))
    deepstack = 2 * shape.graph.deepstack * e  # the image features for the first layers
    if is_pipelined(shape, options):
        return MAX_COPIES * mask + 10 * e + 4 * deepstack
    return mask + 4 * e + deepstack


def drafting_compute_bytes(shape: ModelShape, options: ModelOptions) -> tuple[int, int]:
    """Compute bytes of the MTP drafting context: on its device, and in RAM."""
    ubatch = largest_ubatch(shape, options)
    w = ubatch.w
    layer = experts(w) if shape.graph.expert_ff else dense(w)
    if options.n_cpu_moe > shape.hparams.n_layer or options.overrides:  # those of the drafting layers, too
        layer = max(layer, one_copied_expert_bytes(shape, w))
    mask = 2 * ubatch.cells.base * w.tokens
    if options.devices > 1 and is_pipelined(shape, options):
        return layer + MAX_COPIES * mask + 7 * w.e, MAX_COPIES * mask + 5 * w.e
    return layer + mask, mask + 2 * w.e


def is_pipelined(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether llama.cpp pipelines several ubatches over the GPUs (b11434, llama-context.cpp)."""
    return (
        options.devices > 1
        and options.n_gpu_layers > shape.hparams.n_layer_all
        and options.split_mode == "layer"
        and options.kv_offload
        and not options.overrides
        and not options.n_cpu_moe
    )
