"""Companions: what a llama-server loads in addition to its model - a draft model or the model's own drafting layers,
LoRA adapters, a projector. In bytes per device and in RAM, to be added to the model's.

Source: llama.cpp b11434, common/speculative.cpp (common_base_params_to_speculative), src/llama-adapter.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from app.entities.gguf import GgufHeader
from app.entities.launch import ALL_LAYERS, ModelOptions
from app.entities.memory import DeviceMemory
from app.use_cases.estimate.compute import drafting_compute_bytes
from app.use_cases.estimate.kv_cache import cache_cells, drafting_context_bytes
from app.use_cases.estimate.projector import Projector, projector, projector_memory
from app.use_cases.model_shape.draft_head import ASSISTANTS, DSPARK, head_fits, head_type
from app.use_cases.model_shape.shape import BLOCK, ModelShape, between, gpu_bytes, is_input, model_shape


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: bytes of its tensors by the layer they modify; ALL_LAYERS stands for the output."""

    layers: Mapping[int, int]
    host_layers: Mapping[int, int]
    host_bytes: int  # of tensors that modify weights in RAM


@dataclass(frozen=True, slots=True)
class Companions:
    """The companion files of a model. A missing or damaged file is left out: the engine reports it."""

    draft: ModelShape | None = None
    projector: Projector | None = None
    adapters: tuple[Adapter, ...] = ()


NO_COMPANIONS = Companions()
MEASURED_MTP = frozenset({"qwen35", "qwen35moe", "glm4moe", "deepseek32"})
MEASURED_HEADS = MEASURED_MTP | {"eagle3", "dflash", *ASSISTANTS}
Companion = ModelShape | Projector | Adapter
DeviceNeeds = tuple[list[DeviceMemory], DeviceMemory]  # per device, and of RAM


def read_companion(header: GgufHeader) -> Companion:
    """The companion this file is, by its header. Never raises."""
    if header.architecture == "clip":
        return projector(header)
    return adapter(header) if header.metadata.get("general.type") == "adapter" else model_shape(header)


def group_companions(companions: Iterable[Companion]) -> Companions:
    """By kind; of several draft models or projectors the first counts."""
    found = list(companions)
    return Companions(
        next((each for each in found if isinstance(each, ModelShape)), None),
        next((each for each in found if isinstance(each, Projector)), None),
        tuple(each for each in found if isinstance(each, Adapter)),
    )


def adapter(header: GgufHeader) -> Adapter:
    """The adapter with this header. Never raises."""
    layers: dict[int, int] = {}
    host_layers: dict[int, int] = {}
    host = 0
    for tensor in header.tensors:
        name = tensor.name.removesuffix(".lora_a").removesuffix(".lora_b")
        block = BLOCK.match(name)
        if is_input(name):
            host += tensor.size_bytes
            continue
        layer = int(block[1]) if block else ALL_LAYERS
        layers[layer] = layers.get(layer, 0) + gpu_bytes(tensor)
        host_layers[layer] = host_layers.get(layer, 0) + tensor.size_bytes
    return Adapter(layers, host_layers, host)


def adapter_memory(lora: Adapter, n_layer_all: int, ranges: list[range]) -> DeviceNeeds:
    """Weights of an adapter: its tensors are placed with the tensors they modify (src/llama-adapter.cpp)."""
    devices, host = [0] * len(ranges), lora.host_bytes
    for layer, size in lora.layers.items():
        index = next((i for i, layers in enumerate(ranges) if min(layer, n_layer_all) in layers), None)
        if index is None:
            host += lora.host_layers[layer]
        else:
            devices[index] += size
    return [DeviceMemory(weights_bytes=size) for size in devices], DeviceMemory(weights_bytes=host)


def draft_options(options: ModelOptions) -> ModelOptions:
    """Options of the draft model's context; its cache types are independent of the main model's."""
    own = replace(
        options,
        cache_type_k=options.draft_cache_type_k,
        cache_type_v=options.draft_cache_type_v,
        n_gpu_layers=options.draft_n_gpu_layers if options.devices else 0,
        n_cpu_moe=options.draft_n_cpu_moe,
        overrides=options.draft_overrides,
        speculation="none",
    )
    has_own_gpu = options.draft_device is not None and options.devices > 1
    return replace(own, devices=1, tensor_split=(), split_mode="layer") if has_own_gpu else own


def has_measured_mtp(shape: ModelShape) -> bool:
    """Whether the model has layers to predict several tokens, and is of an architecture for which these were measured
    (bench/truth) and which llama.cpp drafts with (b11549: LLM_GRAPH_TYPE_DECODER_MTP in src/models)."""
    hp = shape.hparams
    has_layers = hp.n_layer < hp.n_layer_all and between(shape.layers, hp.n_layer, hp.n_layer_all) > 0
    return has_layers and hp.architecture in MEASURED_MTP


def has_measured_head(head: ModelShape, model: ModelShape) -> bool:
    """Whether the model can draft tokens with this head, and what such heads take was measured, on one GPU."""
    is_measured = head.hparams.architecture in MEASURED_HEADS and head_type(head.hparams.header) != DSPARK
    return is_measured and head_fits(head.hparams.header, model.hparams.header)


def drafting_memory(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> DeviceNeeds:
    """Needs of the context in which a model drafts with its own MTP layers."""
    devices = [DeviceMemory() for _ in ranges]
    if shape.hparams.n_layer == shape.hparams.n_layer_all:
        return devices, DeviceMemory()
    own = replace(options, ctx_size=cache_cells(shape, options).ctx)
    context = drafting_context_bytes(shape, own)
    compute, host_compute = drafting_compute_bytes(shape, own)
    index = next((i for i, layers in enumerate(ranges) if shape.hparams.n_layer in layers), None)
    if index is None:
        return devices, DeviceMemory(0, context, compute)
    on_gpu, in_ram = (context, 0) if options.kv_offload else (0, context)
    devices[index] = DeviceMemory(0, on_gpu, compute)
    return devices, DeviceMemory(0, in_ram, host_compute)


def projector_needs(projector: Projector, options: ModelOptions, count: int) -> DeviceNeeds:
    """On the first of `count` devices."""
    first, host = projector_memory(projector, options)
    return [first, *[DeviceMemory()] * (count - 1)] if count else [], host


def add_needs(needs: Iterable[DeviceNeeds]) -> DeviceNeeds:
    """The sum, item by item. With split mode "none" a draft model may have a GPU that its model does not use."""
    devices, hosts = zip(*needs, strict=True)
    return [_sum(each) for each in zip_longest(*devices, fillvalue=DeviceMemory())], _sum(hosts)


def _sum(memories: Iterable[DeviceMemory]) -> DeviceMemory:
    each = list(memories)
    return DeviceMemory(
        sum(one.weights_bytes for one in each),
        sum(one.context_bytes for one in each),
        sum(one.compute_bytes for one in each),
    )
