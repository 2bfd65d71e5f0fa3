"""Attention on the CPU: where flash attention is required and CUDA has no kernel for the head size.

`-fa on` and a quantized V cache require it; otherwise "auto" turns it off. The GPUs then read neither mask nor cache,
but each layer's result is copied back: a pipeline holds all of these copies from the start of the graph to its end
(b11549, ggml-backend.cpp, ggml_backend_sched_split_graph).
"""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.graph_rules import Work, dense
from app.use_cases.estimate.peaks import output_alone_bytes, peak_bytes
from app.use_cases.estimate.pipeline_copies import MAX_COPIES, inter_gpu_copy_bytes
from app.use_cases.estimate.ubatch import Ubatch, is_flash_forced
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape


def attends_on_cpu(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether the CPU computes the attention of all layers."""
    graph = shape.graph
    has_kernel = graph.has_flash_attention or graph.architecture in arch.ATTENDS_TO_BATCH
    return options.devices > 0 and not has_kernel and not graph.is_mla and is_flash_forced(shape, options)


def without_attention_bytes(ubatch: Ubatch, used: list[range], copies: int) -> list[int]:
    """Bytes on each device in `used`; `copies`: how many the pipeline has, 0 without."""
    return [_bytes(ubatch, used, index, copies) for index in range(len(used))]


def _bytes(ubatch: Ubatch, used: list[range], index: int, copies: int) -> int:
    shape, w = ubatch.shape, ubatch.w
    layers = used[index]
    if index and layers.start >= shape.hparams.n_layer:
        return output_alone_bytes(ubatch, copies)
    peak = peak_bytes(ubatch, layers, has_inputs=layers.start == 0)
    if not copies:
        from_ram = _from_ram(shape, w, layers.start) if index == 0 else 0
        return max(peak - (w.e if index else 0), from_ram)
    results = sum(shape.hparams.has_kv[il] for il in layers if il < shape.hparams.n_layer)
    each = w.width(shape.graph.heads * shape.graph.v_head)
    between_gpus = inter_gpu_copy_bytes(ubatch, used, index)
    return peak + between_gpus - w.e + MAX_COPIES * each * results


def _from_ram(shape: ModelShape, w: Work, first_gpu_layer: int) -> int:
    """What the first device takes while it computes with weights from RAM."""
    largest = max(shape.largest_bytes[:first_gpu_layer], default=0)
    return max(largest + w.ff + 5 * w.e, dense(w) + w.e) if largest else 0
