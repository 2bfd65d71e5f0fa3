"""Replayed layers: the compute buffer of a device when weights or the KV cache are in RAM.

The copies of these are so large that the gaps between the other tensors decide where they fit, and with it the peak:
no formula over tensor sizes is enough. The allocations are therefore made again in the order of the graph after its
scheduler (llama.cpp b11549, ggml-backend.cpp: ggml_backend_sched_split_graph): what a split copies in is allocated at
its start, and an input is freed after the last node that reads it. A layer that finds the same gaps as an equal one
before it leaves the same, so that it need not be made again.
"""

from __future__ import annotations

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.kv_cache import is_quantized
from app.use_cases.estimate.replayed_device import NETWORK_WEIGHTS, InRam, Repeated, ReplayedDevice
from app.use_cases.estimate.tensor_overrides import MovedTensors, moved_tensors
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape

# Their layers have tensors that are not replayed here.
_OTHER_LAYERS = (
    arch.ATTENDS_TO_BATCH
    | arch.WITH_ATTENTION_BIAS
    | {
        *(
            "bitnet",
            "cohere2moe",
            "gptneox",
            "graniteswitch",
            "hunyuan_vl",
            "k2-horizon",
            "minimax-m3",
            "openelm",
            "paddleocr",
        ),
        *("pockettts", "qwen3tts", "talkie"),
    }
)
# Their experts have tensors that are not replayed here.
_OTHER_EXPERTS = frozenset({"deepseek4", "laguna", "step35"})


def is_replayed(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> bool:
    """Whether weights or the cache are in RAM, and every layer is plain attention and a feed-forward network."""
    hp, graph = shape.hparams, shape.graph
    moves = bool(options.overrides or options.n_cpu_moe)
    in_ram = options.n_gpu_layers <= hp.n_layer_all or not options.kv_offload or moves
    if not (in_ram and options.devices) or options.task is not Task.COMPLETION:
        return False
    if graph.architecture in _OTHER_LAYERS or (moves and graph.architecture in _OTHER_EXPERTS):
        return False
    attends_on_cpu = not graph.has_flash_attention and is_quantized(options.cache_type_v)
    special = graph.is_mla or graph.deepstack or graph.per_layer or hp.has_looped_layers or attends_on_cpu
    is_plain = not special and not any(hp.has_state) and hp.n_layer > 0 and all(hp.has_kv[: hp.n_layer])
    return is_plain and (not options.overrides or _are_networks(shape, moved_tensors(shape, options, ranges), ranges))


def _are_networks(shape: ModelShape, moved: MovedTensors, ranges: list[range]) -> bool:
    """Whether only weights of networks are moved, and on other devices than the first all experts of a layer."""
    for il, kinds in moved.kinds.items():
        if kinds - set(NETWORK_WEIGHTS) or (il not in ranges[0] and kinds != shape.each_layer[il].experts):
            return False
    return not moved.to_gpus


def weights_in_ram(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> InRam:
    """Of the layers on GPUs."""
    count = min(options.n_cpu_moe, shape.hparams.n_layer)
    found = {il: shape.each_layer[il].experts for il in range(ranges[0].start, count) if shape.each_layer[il].experts}
    if options.overrides:
        for il, kinds in moved_tensors(shape, options, ranges).kinds.items():
            found[il] = found.get(il, frozenset()) | kinds
    return found


def replayed_bytes(ubatch: Ubatch, ranges: list[range]) -> list[int]:
    """Bytes of the compute buffer of each device with layers, masks included; 0 for the others."""
    shape = ubatch.shape
    moved = weights_in_ram(shape, ubatch.options, ranges)
    n, found, repeated = shape.hparams.n_layer, list[int](), Repeated()
    before = range(min(ranges[0].start, n))
    for index, each in enumerate(ranges):
        own = range(each.start, min(each.stop, n))
        elsewhere = [il for il in moved if il not in own] if index == 0 else []
        is_first = bool(before) or bool(elsewhere) or not any(found)
        if not (before or own or elsewhere):
            found.append(0)
            continue
        device = ReplayedDevice(GraphReplay(ubatch), own, moved, repeated)
        found.append(device.first_bytes(before, elsewhere) if is_first else device.other_bytes())
        before = range(0)
    return found
