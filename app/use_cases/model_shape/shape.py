"""ModelShape: a model's header, arranged as the estimate needs it.

Computed once per file (a few milliseconds), so that an estimate only adds. Sums over layers are stored as running
totals, because a device's layers are always a range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

from app.entities.gguf import GgufHeader, Tensor
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.graph_shape import GraphShape, graph_shape
from app.use_cases.model_shape.hparams import Hparams
from app.use_cases.model_shape.indexer import indexer_widths
from app.use_cases.model_shape.layers import EXPERTS, Layer, layers

PADDED_ROW = 512  # values; CUDA pads the last row of quantized tensors (ggml-cuda.cu, MATRIX_ROW_PADDING)
ALIGNMENT_BYTES = 128  # of the tensors in a CUDA buffer
UNQUANTIZED = frozenset({"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"})

BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,6})\.")  # T5 has encoder and decoder blocks
_EXPERTS = re.compile(rf"\.{EXPERTS.pattern}")
_INPUTS = (
    *("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"),
    "d2t",  # of a draft head
)
_PER_DEVICE = ("rope_freqs.", "rope_factors_")  # created with every layer, once per device (TENSOR_DUPLICATED)
_FIRST_LAYER = ("per_layer_model_proj.", "per_layer_proj_norm.", "token_embd_norm.")  # on the device of layer 0
_REPACKED_TYPES = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})  # with AVX2, and with NEON's dotprod


@dataclass(frozen=True, slots=True)
class Cache:
    """One kind of KV cache: values per token, by layer."""

    k_width: Totals
    v_width: Totals
    layers: Totals  # number of layers that have it
    k_padding: Totals  # values CUDA adds to each layer's tensor if its type is quantized
    v_padding: Totals


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: a cache may have it as a key
class ModelShape:
    """The sizes an estimate adds up. Weights: `..._bytes` as allocated on a GPU, `host_..._bytes` as in RAM."""

    hparams: Hparams
    layers: Totals  # including MTP layers, which are loaded only for drafting
    host_layers: Totals
    experts: Totals  # of these layers, the tensors --cpu-moe keeps in RAM
    host_experts: Totals
    input_bytes: int  # always in RAM
    output_bytes: int  # on the device of the output
    host_output_bytes: int
    repacked_output_bytes: int  # in RAM besides, of an output that the CPU has in another order than the embedding
    first_layer_bytes: int  # on the device of layer 0
    per_device_bytes: int  # once on every device that has layers
    has_tied_output: bool  # the embedding is also the output matrix
    base: Cache
    window: Cache
    reads_base: Totals  # layers that attend to the whole context, including those that read another layer's cache
    reads_window: Totals
    indexer_width: Totals
    indexer_v_width: Totals
    indexer_head: int
    compressed: tuple[tuple[int, Totals], ...]  # by tokens per key of a compressed cache: the layers that have it
    drafting: tuple[tuple[int, int], ...]  # values per token in K and V of each MTP layer
    v_width_max: int  # without flash attention every V is padded to the widest
    state_bytes: Totals  # recurrent state of one sequence
    widest_base: tuple[int, int]  # values per token in K and V of the layer with the most
    widest_window: tuple[int, int]
    each_layer: tuple[Layer, ...]
    largest_bytes: tuple[int, ...]  # the largest weight of each layer
    largest_expert_bytes: int
    expert_pair_bytes: int  # two that follow each other
    two_experts_bytes: int  # the two largest of one layer
    has_mixed_experts: bool  # not all of one size
    empty_layers: int  # layers of the metadata that have no tensors
    graph: GraphShape

    def __hash__(self) -> int:
        """Of enough to tell models apart: the metadata cannot be hashed, and hashing the rest takes long."""
        return hash((self.layers, self.output_bytes))


def model_shape(header: GgufHeader) -> ModelShape:
    """The shape of the model with this header. Never raises: missing values count as 0."""
    hp = Hparams(header)
    kv = [_kv_width(hp, il) for il in hp.layers]
    owns = [hp.has_kv[il] and not hp.is_windowed[il] for il in hp.layers]
    owns_window = [hp.has_kv[il] and hp.is_windowed[il] for il in hp.layers]
    indexer = indexer_widths(hp)
    return ModelShape(
        hparams=hp,
        **_weights(header, hp),
        base=_cache(kv, owns),
        window=_cache(kv, owns_window),
        reads_base=totals(
            int(reads and not windowed) for reads, windowed in zip(_reads(hp), hp.is_windowed, strict=True)
        ),
        reads_window=totals(
            int(reads and windowed) for reads, windowed in zip(_reads(hp), hp.is_windowed, strict=True)
        ),
        indexer_width=totals(k for k, _ in indexer),
        indexer_v_width=totals(v for _, v in indexer),
        indexer_head=hp.integer("attention.indexer.key_length"),
        compressed=_compressed(hp),
        drafting=tuple(kv[hp.n_layer :]),
        v_width_max=max((v for _, v in kv), default=0),
        state_bytes=totals(hp.state_bytes if state else 0 for state in hp.has_state),
        widest_base=_widest(kv, owns),
        widest_window=_widest(kv, owns_window),
        graph=graph_shape(hp),
    )


def gpu_bytes(tensor: Tensor) -> int:
    """What CUDA allocates for a tensor (ggml_backend_cuda_buffer_type_get_alloc_size)."""
    size = tensor.size_bytes
    missing = -tensor.shape[0] % PADDED_ROW if tensor.shape else 0
    if missing and tensor.type not in UNQUANTIZED:
        rows = max(1, prod(tensor.shape) // max(1, tensor.shape[0]))
        size += size // rows * missing // max(1, tensor.shape[0])
    return size + -size % ALIGNMENT_BYTES


def is_input(name: str) -> bool:
    """Whether the tensor stays in RAM however many layers are on GPUs."""
    return name in _INPUTS


def is_expert(name: str) -> bool:
    """Whether --cpu-moe keeps the tensor in RAM."""
    return _EXPERTS.search(name) is not None


def _weights(header: GgufHeader, hp: Hparams) -> dict[str, Any]:
    blocks: list[list[Tensor]] = [[] for _ in hp.layers]
    outside_blocks: list[Tensor] = []
    for tensor in header.tensors:
        block = BLOCK.match(tensor.name)
        (blocks[int(block[1])] if block and int(block[1]) < len(blocks) else outside_blocks).append(tensor)
    experts = [[tensor for tensor in block if is_expert(tensor.name)] for block in blocks]
    return {
        "layers": totals(map(_on_gpu, blocks)),
        "host_layers": totals(map(_in_ram, blocks)),
        "experts": totals(map(_on_gpu, experts)),
        "host_experts": totals(map(_in_ram, experts)),
        "each_layer": layers(hp, blocks, {tensor.name: gpu_bytes(tensor) for block in blocks for tensor in block}),
        "largest_bytes": tuple(map(_largest, blocks)),
        "empty_layers": sum(not blocks[il] for il in set(hp.block_of)) - hp.has_router_layer,
        "two_experts_bytes": max(map(_two_largest, experts), default=0),
        **_expert_sizes([tensor for block in experts for tensor in block]),
    } | _outside_of_blocks(outside_blocks, hp)


def _expert_sizes(tensors: list[Tensor]) -> dict[str, Any]:
    matrices = [tensor for tensor in tensors if tensor.name.endswith(".weight")]
    fused = _largest(tensor for tensor in matrices if "_gate_up_" in tensor.name)
    downs = [tensor.size_bytes for tensor in matrices if "_down_" in tensor.name]
    down = max(downs, key=downs.count, default=0)  # the usual: few layers have a type of their own
    return {
        "largest_expert_bytes": _largest(matrices),
        "expert_pair_bytes": fused + down if fused else 2 * _largest(matrices),
        "has_mixed_experts": len({tensor.size_bytes for tensor in matrices}) > 1,
    }


def _outside_of_blocks(tensors: list[Tensor], hp: Hparams) -> dict[str, Any]:
    inputs = [tensor for tensor in tensors if tensor.name in _INPUTS]
    per_device = [tensor for tensor in tensors if tensor.name.startswith(_PER_DEVICE)]
    first = [tensor for tensor in tensors if tensor.name.startswith(_FIRST_LAYER)]
    output = [tensor for tensor in tensors if not tensor.name.startswith((*_INPUTS, *_PER_DEVICE, *_FIRST_LAYER))]
    has_none = hp.architecture in arch.WITHOUT_OUTPUT | arch.WITH_OUTPUT_IN_RAM
    is_tied = all(tensor.name != "output.weight" for tensor in tensors) and not has_none
    # The embedding is held a second time as the output matrix on a GPU; in RAM it is shared unless it is repacked.
    tied = [tensor for tensor in inputs if is_tied and tensor.name == "token_embd.weight"]
    return {
        "input_bytes": _in_ram(inputs),
        "output_bytes": _on_gpu(output + tied),
        "host_output_bytes": _in_ram(output),
        "repacked_output_bytes": _in_ram(filter(_is_repacked, tied)),
        "first_layer_bytes": _on_gpu(first),
        "per_device_bytes": _on_gpu(per_device),
        "has_tied_output": is_tied,
    }


def _is_repacked(tensor: Tensor) -> bool:
    """By llama.cpp b11549, ggml-cpu/repack.cpp (ggml_repack_get_optimal_repack_type)."""
    return tensor.type in _REPACKED_TYPES and tensor.shape[-1] % 8 == 0


def _on_gpu(tensors: Iterable[Tensor]) -> int:
    return sum(map(gpu_bytes, tensors))


def _in_ram(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)


def _largest(tensors: Iterable[Tensor]) -> int:
    return max((tensor.size_bytes for tensor in tensors), default=0)


def _two_largest(tensors: Iterable[Tensor]) -> int:
    return sum(sorted(tensor.size_bytes for tensor in tensors)[-2:])


def _compressed(hp: Hparams) -> tuple[tuple[int, Totals], ...]:
    ratios = hp.per_layer("attention.compress_ratios") if hp.architecture in arch.WITH_COMPRESSED_CACHES else ()
    return tuple((kept, totals(int(ratio == kept) for ratio in ratios)) for kept in sorted({*ratios} & {4, 128}))


def _reads(hp: Hparams) -> list[bool]:
    shares = hp.architecture in arch.WITH_SHARED_CACHES
    return [hp.has_kv[il] or (shares and il < hp.n_layer) for il in hp.layers]


def _kv_width(hp: Hparams, il: int) -> tuple[int, int]:
    heads, windowed = hp.n_head_kv[il], hp.is_windowed[il]
    has_values = not hp.is_mla and hp.architecture not in arch.WITH_COMPRESSED_CACHES
    return heads * hp.k_head(windowed), heads * hp.v_head(windowed) if has_values else 0


def _widest(kv: list[tuple[int, int]], owns: list[bool]) -> tuple[int, int]:
    return max((each for each, own in zip(kv, owns, strict=True) if own), key=sum, default=(0, 0))


def _cache(kv: list[tuple[int, int]], owns: list[bool]) -> Cache:
    return Cache(
        k_width=totals(k if own else 0 for (k, _), own in zip(kv, owns, strict=True)),
        v_width=totals(v if own else 0 for (_, v), own in zip(kv, owns, strict=True)),
        layers=totals(int(own) for own in owns),
        k_padding=totals(-k % PADDED_ROW if own else 0 for (k, _), own in zip(kv, owns, strict=True)),
        v_padding=totals(-v % PADDED_ROW if own else 0 for (_, v), own in zip(kv, owns, strict=True)),
    )


Totals = tuple[int, ...]  # [i] is the sum over the layers before i


def totals(values: Iterable[int]) -> Totals:
    return tuple(accumulate(values, initial=0))


def between(sums: Totals, start: int, stop: int) -> int:
    """The sum over layers `start` to `stop` - 1; 0 for an empty range."""
    return sums[stop] - sums[start] if stop > start else 0
