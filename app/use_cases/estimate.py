"""How much memory a llama-server will need, worked out from the model's header before it is loaded.

Weights and context are arithmetic; the compute buffer follows rules that were fitted to llama.cpp's own accounting
(bench/estimate.py compares). Nothing here raises for a model that nobody knows: its confidence is low.
"""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import MemoryOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.use_cases.compute_memory import compute_bytes, host_compute_bytes
from app.use_cases.context_memory import context_bytes, host_context_bytes
from app.use_cases.families import Situation, is_known, margin
from app.use_cases.model_shape import ModelShape
from app.use_cases.tensor_split import device_layers
from app.use_cases.weights_memory import weights

# Of a process: CUDA's context and libraries, until one was measured. 264 to 753 MiB were seen, by model of GPU.
GPU_OVERHEAD_BYTES = 500 * 1024**2


def estimate_memory(
    shape: ModelShape, options: MemoryOptions, gpu_overhead_bytes: int = GPU_OVERHEAD_BYTES
) -> Estimate:
    """What a llama-server for the model needs with these options, per device and in RAM."""
    ranges = device_layers(shape.hparams, options)
    on_devices, on_host = weights(shape, options, ranges)
    compute = compute_bytes(shape, options, ranges)
    context = context_bytes(shape, options, ranges)
    host = DeviceMemory(
        weights_bytes=on_host,
        context_bytes=host_context_bytes(shape, options, ranges),
        compute_bytes=host_compute_bytes(shape, options, ranges) if options.devices else compute[0],
    )
    if not options.devices:
        return _told(shape, options, (), host)
    devices = tuple(
        DeviceMemory(w, c if options.kv_offload else 0, g, gpu_overhead_bytes)
        for w, c, g in zip(on_devices, context, compute, strict=True)
    )
    return _told(shape, options, devices, host)


def _told(shape: ModelShape, options: MemoryOptions, devices: tuple[DeviceMemory, ...], host: DeviceMemory) -> Estimate:
    """With how sure it is of that, and what is booked on top."""
    known = is_known(shape.hparams.architecture)
    share = margin(shape.hparams.architecture, _situation(shape, options))
    notes = () if known else (f"architecture {shape.hparams.architecture!r} has not been measured",)
    return Estimate(
        tuple(_with_margin(each, share) for each in devices),
        _with_margin(host, share) if not devices else host,
        Confidence.MODELLED if known else Confidence.LOW,
        notes,
    )


def _situation(shape: ModelShape, options: MemoryOptions) -> Situation:
    if not options.devices:
        return Situation.CPU
    if options.n_gpu_layers <= shape.hparams.n_layer_all:
        return Situation.PARTIAL
    is_split = options.devices > 1 and options.split_mode != "none"
    return Situation.SEVERAL_GPUS if is_split else Situation.ONE_GPU


def _with_margin(memory: DeviceMemory, share: float) -> DeviceMemory:
    measured = memory.weights_bytes + memory.context_bytes + memory.compute_bytes
    return replace(memory, margin_bytes=round(share * measured))
