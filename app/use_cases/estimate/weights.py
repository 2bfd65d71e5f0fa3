"""Bytes of weights, per device and in RAM."""

from __future__ import annotations

from app.entities.launch import DRAFTS_ITSELF, ModelOptions
from app.use_cases.estimate.tensor_overrides import moved_tensors
from app.use_cases.model_shape.shape import ModelShape, between


def weights(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> tuple[list[int], int]:
    """Bytes of weights on each device, and in RAM. An embedding that is also the output matrix is in both."""
    n = shape.hparams.n_layer_all
    loaded = n if options.speculation == DRAFTS_ITSELF else shape.hparams.n_layer
    first_gpu_layer = ranges[0].start if ranges else n + 1
    host = shape.input_bytes + between(shape.host_layers, 0, min(first_gpu_layer, loaded))
    host += between(shape.host_experts, first_gpu_layer, min(options.n_cpu_moe, loaded))
    if first_gpu_layer > 0:
        host += shape.first_layer_bytes
    if first_gpu_layer > n:
        host += shape.host_output_bytes
    if not options.devices and options.repack:  # with GPUs the CPU's weights stay as they are in the file
        host += shape.repacked_output_bytes
    moved = moved_tensors(shape, options, ranges)
    per_device = [_on_device(shape, options, layers, loaded) for layers in ranges]
    totals = [max(0, a + b) for a, b in zip(per_device, moved.device_bytes, strict=True)]
    return totals, max(0, host + moved.host_bytes)


def _on_device(shape: ModelShape, options: ModelOptions, layers: range, loaded: int) -> int:
    n = shape.hparams.n_layer_all
    last = min(layers.stop, loaded)
    total = between(shape.layers, layers.start, last)
    total -= between(shape.experts, layers.start, min(last, options.n_cpu_moe))
    if layers.start < min(layers.stop, n):
        total += shape.per_device_bytes
    if 0 in layers:
        total += shape.first_layer_bytes
    if n in layers:
        total += shape.output_bytes
    return total
