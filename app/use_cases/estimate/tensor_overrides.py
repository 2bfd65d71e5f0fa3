"""Tensor overrides: tensors placed apart from their layer by -ot or --cpu-moe.

Source: llama.cpp b11434, src/llama-model-loader.cpp (create_tensor): the first pattern found in a tensor's name wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from app.entities.gguf import Tensor
from app.entities.launch import ModelOptions
from app.use_cases.model_shape.shape import BLOCK, ModelShape, gpu_bytes, is_expert, is_input

RAM = -1
_OF_A_LAYER = re.compile(r"blk\\\.\d+\\\.ffn_\(up\|down\|gate\)\\\.")  # parsed_args.py, _dense_in_ram
_GPU = re.compile(r"[A-Za-z]+([0-9]{1,3})")


@dataclass(slots=True)
class MovedTensors:
    """Effect of the overrides: bytes added or removed, and the largest weights to be copied in for computation."""

    device_bytes: list[int]
    host_bytes: int = 0
    largest_dense_bytes: int = 0  # gate and up of the feed-forward networks
    largest_other_bytes: int = 0
    emptied: set[int] = field(default_factory=set)  # layers whose experts are in RAM
    kinds: dict[int, set[str]] = field(default_factory=dict)  # what is in RAM of each layer
    to_gpus: bool = False  # whether something was moved there


def moved_tensors(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> MovedTensors:
    """For a server with the layers `ranges[i]` on device i."""
    if not options.overrides or not ranges:
        return MovedTensors([0] * len(ranges))
    return _moved(shape, options.overrides, options.n_cpu_moe, tuple(ranges))


@lru_cache(maxsize=16)  # to match every name takes milliseconds, and the same is asked for each length of the context
def _moved(
    shape: ModelShape, overrides: tuple[tuple[str, str], ...], n_cpu_moe: int, ranges: tuple[range, ...]
) -> MovedTensors:
    found = MovedTensors([0] * len(ranges))
    patterns = [(re.compile(pattern), buffer) for pattern, buffer in overrides]
    for tensor in shape.hparams.header.tensors:
        target = next((buffer for pattern, buffer in patterns if pattern.search(tensor.name)), None)
        if target is not None:
            _move(found, shape, n_cpu_moe, tensor, ranges, _device(target, len(ranges)))
    return found


def unmatched_patterns(shape: ModelShape, options: ModelOptions) -> tuple[str, ...]:
    """A sentence for each pattern that no tensor of the model has in its name; the engine says nothing of it.

    Those of --n-cpu-ffn are for more layers than most models have.
    """
    names = [tensor.name for tensor in shape.hparams.header.tensors]
    patterns = [pattern for pattern, _ in options.overrides if not _OF_A_LAYER.fullmatch(pattern)]
    return tuple(
        f"tensor_overrides: no tensor of the model matches {pattern!r}"
        for pattern in patterns
        if not any(re.search(pattern, name) for name in names)
    )


def gpu_of(buffer: str) -> int | None:
    """Which of a server's GPUs a buffer type is of, as 1 in CUDA1. None: of no GPU."""
    found = _GPU.fullmatch(buffer)
    return int(found[1]) if found else None


def _device(buffer: str, count: int) -> int:
    device = gpu_of(buffer)
    return RAM if device is None or device >= count else device


def _move(
    found: MovedTensors, shape: ModelShape, n_cpu_moe: int, tensor: Tensor, ranges: tuple[range, ...], target: int
) -> None:
    block = BLOCK.match(tensor.name)
    layer = int(block[1]) if block else shape.hparams.n_layer_all
    if block and layer >= shape.hparams.n_layer:
        return  # for drafting, or of a layer that the metadata does not have
    if is_expert(tensor.name) and layer < n_cpu_moe:
        return  # already in RAM
    home = RAM if is_input(tensor.name) else next((i for i, layers in enumerate(ranges) if layer in layers), RAM)
    if home == target:
        return
    is_tied = tensor.name == "token_embd.weight" and shape.has_tied_output
    if home == RAM:
        found.host_bytes -= tensor.size_bytes
    else:
        found.device_bytes[home] -= gpu_bytes(tensor)
    if target != RAM:
        found.to_gpus = True
        found.device_bytes[target] += 0 if is_tied else gpu_bytes(tensor)  # already there, as the output matrix
        return
    found.host_bytes += tensor.size_bytes
    if block:
        found.kinds.setdefault(layer, set()).add(tensor.name[block.end() :].removesuffix(".weight"))
    if is_expert(tensor.name):
        found.emptied.add(layer)
    elif ".ffn_up." in tensor.name or ".ffn_gate." in tensor.name:
        found.largest_dense_bytes = max(found.largest_dense_bytes, tensor.size_bytes)
    elif block:
        found.largest_other_bytes = max(found.largest_other_bytes, tensor.size_bytes)
