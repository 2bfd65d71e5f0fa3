"""Bytes of the compute buffers: the tensors of one graph that are alive at the same time.

A layer's part is in graph_rules.py. In addition, ggml's scheduler keeps every input of a split in as many copies as the
pipeline has stages, and llama-server reserves logits for one token per slot only (b11434, server-context.cpp,
server_output_limits).
"""

from __future__ import annotations

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.expert_copies import uncounted_expert_bytes
from app.use_cases.estimate.graph_rules import OTHER_GRAPHS, Work, dense, encoder, experts
from app.use_cases.estimate.kv_cache import CacheCells, cache_cells, is_quantized
from app.use_cases.estimate.op_offload import (
    experts_all_in_ram,
    loses_flash_attention,
    op_offload_bytes,
    with_cache_in_ram,
)
from app.use_cases.estimate.pipeline_copies import MAX_COPIES, inter_gpu_copy_bytes, shared_cache_bytes
from app.use_cases.estimate.tensor_overrides import MovedTensors, moved_tensors
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.graph_shape import GraphShape
from app.use_cases.model_shape.shape import ModelShape, between


def compute_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> list[int]:
    """Bytes of each device's compute buffer, 0 for a device that computes nothing; without devices, of the CPU's.

    The first device computes even without layers: weights in RAM are copied to it (op_offload.py).
    """
    used = [layers for layers in ranges if layers] or [range(shape.hparams.n_layer_all + 1)]
    if len(used) > 1 and shape.graph.architecture in arch.WITHOUT_OUTPUT:
        used = [layers for layers in used if layers.start < shape.hparams.n_layer]  # no output: nothing to compute
    sizes = iter(_device_bytes(shape, options, ranges, used))
    if not options.devices:
        return [next(sizes) + _cpu_extra_bytes(shape, options)]
    if not any(ranges):
        return [next(sizes), *[0] * (len(ranges) - 1)]
    return [next(sizes) if layers in used else 0 for layers in ranges]


def _device_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range], used: list[range]) -> list[int]:
    """Bytes on each device in `used`."""
    cells = cache_cells(shape, options)
    w = _work(shape.graph, options, cells)
    flash = uses_flash_attention(shape, options)
    if len(used) > 1 and is_pipelined(shape, options):
        return [
            _peak(shape, options, w, cells, flash, layers, False)
            + MAX_COPIES * _masks(shape, w, cells, flash, layers)
            + inter_gpu_copy_bytes(shape, options, cells, w.tokens, used, index)
            for index, layers in enumerate(used)
        ]
    is_encoder = shape.graph.architecture in arch.WITHOUT_CACHE
    first_gpu_layer = used[0].start if any(ranges) or not is_encoder else shape.hparams.n_layer
    flash = flash or (is_encoder and options.devices > 0 and not any(ranges))  # else attention is computed on the CPU
    flash = flash and not loses_flash_attention(shape, options, first_gpu_layer)
    moved = moved_tensors(shape, options, ranges)
    totals = []
    for index, layers in enumerate(used):
        peak = _sequential_peak(shape, options, w, cells, flash, layers, moved, index)
        totals.append(peak + _masks(shape, w, cells, flash, layers))
    first_mask = _masks(shape, w, cells, flash, used[0])
    if options.devices and not any(ranges) and options.task is not Task.COMPLETION and not is_encoder:
        logits = 4 * shape.graph.vocab * w.tokens + 7 * w.e // 2  # the output matrix is copied in
        totals[0] = max(totals[0], shape.output_bytes + logits + first_mask)
    if options.devices:
        totals[0] = max(totals[0], op_offload_bytes(shape, options, w, cells, first_gpu_layer, moved) + first_mask)
    return totals


def _sequential_peak(
    shape: ModelShape,
    options: ModelOptions,
    w: Work,
    cells: CacheCells,
    flash: bool,
    layers: range,
    moved: MovedTensors,
    index: int,
) -> int:
    """Peak bytes on device `index` of those in use, without pipelining and masks."""
    if index > 0 and experts_all_in_ram(shape, options, moved, layers):  # they are computed on the first device
        peak = _without_experts(shape, w)
    else:
        peak = _peak(shape, options, w, cells, flash, layers, has_inputs=layers.start == 0)
    if not options.kv_offload and options.devices:
        peak = with_cache_in_ram(shape, options, w, cells, peak)
    elif layers.start > 0:
        peak += shared_cache_bytes(shape, options, cells, layers)
    return peak - (2 * w.e if index else 0)  # the two embedding inputs are on the first device only


def _cpu_extra_bytes(shape: ModelShape, options: ModelOptions) -> int:
    """One embedding of all tokens, and the requested logits (with GPUs these are in pinned RAM)."""
    w = _work(shape.graph, options, cache_cells(shape, options))
    has_logits = shape.graph.architecture not in arch.WITHOUT_CACHE
    return w.e + 4 * (shape.graph.vocab if has_logits else shape.graph.embd) * min(w.tokens, _outputs(options, w))


def _without_experts(shape: ModelShape, w: Work) -> int:
    """Layers whose experts are computed on another device."""
    other = OTHER_GRAPHS.get(shape.graph.architecture)
    return max(2 * w.q + (3 if shape.graph.shared_ff else 2) * w.e + 2 * w.e, other(w) if other else 0)


def uncertain_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> int:
    """What the first device may need in addition, depending on gaps that cannot be foreseen."""
    if not options.devices or not (options.n_cpu_moe or options.overrides):
        return 0
    cells = cache_cells(shape, options)
    moved = moved_tensors(shape, options, ranges)
    return uncounted_expert_bytes(shape, options, _work(shape.graph, options, cells), cells, moved)


def host_compute_bytes(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> int:
    """Bytes in RAM for the graph: masks and embeddings to be copied to the devices."""
    cells = cache_cells(shape, options)
    w = _work(shape.graph, options, cells)
    everywhere = range(shape.hparams.n_layer_all + 1)
    mask = _masks(shape, w, cells, uses_flash_attention(shape, options), everywhere)
    used = [layers for layers in ranges if layers]
    deepstack = 3 * shape.graph.deepstack * w.e  # the image features for the first layers
    if len(used) > 1 and is_pipelined(shape, options):
        return MAX_COPIES * mask + 10 * w.e + 3 * deepstack
    return mask + 4 * w.e + deepstack


def drafting_compute_bytes(shape: ModelShape, options: ModelOptions) -> tuple[int, int]:
    """Compute bytes of the MTP drafting context: on its device, and in RAM."""
    cells = cache_cells(shape, options)
    w = _work(shape.graph, options, cells)
    layer = experts(w) if shape.graph.expert_ff else dense(w)
    mask = 2 * cells.base * w.tokens
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


def uses_flash_attention(shape: ModelShape, options: ModelOptions) -> bool:
    """How flash_attn "auto" resolves on CUDA; the CPU's implementation supports every head size."""
    if options.flash_attn == "off" or shape.hparams.architecture == "grok":
        return False
    has_kernel = shape.graph.has_flash_attention or not options.devices
    forced = is_quantized(options.cache_type_v)  # a quantized V cache requires it
    return has_kernel or forced


def _work(graph: GraphShape, options: ModelOptions, cells: CacheCells) -> Work:
    tokens = min(cells.ctx, options.ubatch_tokens, options.batch_tokens)
    if options.task is not Task.COMPLETION:
        tokens = min(cells.ctx, options.ubatch_tokens)  # the server sets the batch to the ubatch
    slots = max(1, options.parallel)
    return Work(graph, -(-tokens // slots) * slots, slots)


def _peak(
    shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool, layers: range, has_inputs: bool
) -> int:
    """Peak bytes on a device with these layers, without masks; `has_inputs`: including the graph's inputs."""
    graph = shape.graph
    if graph.architecture in arch.WITHOUT_CACHE:
        return encoder(w, flash)
    # The last layer computes its feed-forward network only for the requested tokens: one per slot.
    is_tail = layers.start >= shape.hparams.n_layer - 1 and options.task is Task.COMPLETION
    candidates = [4 * w.e if is_tail or not graph.ff else dense(w)]
    if graph.expert_ff and not is_tail:
        candidates.append(experts(w))
    other = OTHER_GRAPHS.get(graph.architecture)
    if other and (has_inputs or not graph.deepstack):
        candidates.append(other(w))
    padded_inputs = 4 * (1 + graph.deepstack) * w.e + 6 * w.e if graph.deepstack and has_inputs else 0
    if attention := _attention(shape, options, w, cells, flash, layers):
        candidates.append(attention + padded_inputs)
    if shape.hparams.n_layer_all in layers:
        outputs = _outputs(options, w)
        residuals = 2 if options.task is Task.COMPLETION and outputs == w.slots else 4
        candidates.append(4 * graph.vocab * min(w.tokens, outputs) + residuals * w.e)
    return max(candidates)


def _attention(shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool, layers: range) -> int:
    graph, (start, stop) = shape.graph, (layers.start, min(layers.stop, shape.hparams.n_layer_all))
    has_base, has_window = between(shape.base.layers, start, stop), between(shape.window.layers, start, stop)
    widest = max(cells.base if has_base else 0, cells.window if has_window else 0)
    if not widest:
        return 0
    if graph.is_mla:
        latent = 2 * w.q + w.width(graph.heads * graph.mla_head) + 4 * w.e
        if flash:
            return latent
    if not flash:
        scores = w.width(graph.heads * widest) + 5 * max(w.q, w.e) + 2 * w.kv
        # V is laid out for flash attention if that turned out unsupported only afterwards: one layer is transposed.
        transposed = 2 * graph.v * widest * cells.streams - w.kv if options.flash_attn != "off" else 0
        return scores + transposed
    if not options.devices or not _is_quantized(options) or not graph.has_flash_attention:
        return 0
    # CUDA's flash attention reads f16: one layer's whole cache is dequantized (fattn.cu, ..._get_alloc_size).
    base = cells.base * shape.widest_base if has_base else 0
    window = cells.window * shape.widest_window if has_window else 0
    return 2 * cells.streams * max(base, window) + 5 * max(w.q, w.e)


def _outputs(options: ModelOptions, w: Work) -> int:
    """Tokens whose logits are computed: the next of each slot and its drafts (server_output_limits)."""
    if options.task is not Task.COMPLETION:
        return w.tokens
    return w.slots * (1 + {"none": 0, "ngram-mod": 64}.get(options.speculation, options.draft_max))


def _is_quantized(options: ModelOptions) -> bool:
    return options.cache_type_k != "f16" or options.cache_type_v != "f16"


def _masks(shape: ModelShape, w: Work, cells: CacheCells, flash: bool, layers: range) -> int:
    bytes_each = 2 if flash else 4
    if shape.graph.architecture in arch.WITHOUT_CACHE:
        kinds = 1 + (0 < sum(shape.hparams.is_windowed) < shape.hparams.n_layer)
        return kinds * w.tokens * w.tokens * bytes_each
    start, stop = layers.start, min(layers.stop, shape.hparams.n_layer_all)
    kept = cells.base * bool(between(shape.reads_base, start, stop))
    kept += cells.window * bool(between(shape.reads_window, start, stop))
    kept += cells.base * bool(between(shape.indexer_width, start, stop))
    return kept * w.tokens * bytes_each
