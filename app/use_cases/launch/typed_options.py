"""Options that somebody types for one question about memory, with llama-server's names: on the command line, or in the
body of POST /plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from app.entities.launch import ALL_LAYERS, ModelOptions, Task
from app.entities.placement import PlacementConstraints
from app.use_cases.estimate.kv_cache import CACHE_TYPES
from app.use_cases.estimate.largest_context import lacks_required_flash_attention
from app.use_cases.launch.typed_arguments import TypedArguments

MAX_INT = 2**31 - 1  # llama-server's integers have 32 bits
INTEGERS = {  # the smallest and the largest value
    "ctx_size": (0, MAX_INT),
    "parallel": (1, 256),
    "batch_size": (1, MAX_INT),
    "ubatch_size": (1, MAX_INT),
    "n_gpu_layers": (-1, MAX_INT),
    "devices": (0, 16),
    "n_cpu_moe": (0, MAX_INT),
}
SWITCHES = ("kv_unified", "swa_full", "embeddings", "reranking", "cpu_moe")
CHOICES = {
    "cache_type_k": tuple(CACHE_TYPES),
    "cache_type_v": tuple(CACHE_TYPES),
    "flash_attn": ("on", "off", "auto"),
    "split_mode": ("layer", "none", "row", "tensor"),
}


class ConflictingOptions(ValueError):
    """Two of the options exclude each other."""


def with_typed_options(
    options: ModelOptions, typed: Mapping[str, Any], spelled: Callable[[str], str] = str
) -> ModelOptions:
    """The options, overridden by those that were typed, by `args` (TypedArguments) first; None is not typed.

    `spelled` writes an option's name as its reader types it. Raises ConflictingOptions.
    """
    changes = {key: value for key, value in typed.items() if value is not None}
    options = changes.pop("args", TypedArguments()).applied(options)
    is_reranker, is_embedder = changes.pop("reranking", False), changes.pop("embeddings", False)
    if is_reranker and is_embedder:
        raise ConflictingOptions(f"{spelled('embeddings')} and {spelled('reranking')}: use only one of them")
    if is_reranker or is_embedder:
        changes["task"] = Task.RERANK if is_reranker else Task.EMBEDDING
    if changes.pop("cpu_moe", False):
        changes["n_cpu_moe"] = ALL_LAYERS
    if changes.get("n_gpu_layers") == -1:
        changes["n_gpu_layers"] = ALL_LAYERS
    if "parallel" in changes and "kv_unified" not in changes:
        changes["kv_unified"] = False
    options = replace(options, **changes)
    if lacks_required_flash_attention(options.cache_type_v, options.flash_attn):
        raise ConflictingOptions(
            f"{spelled('cache_type_v')} {options.cache_type_v} needs {spelled('flash_attn')} on or auto"
        )
    return options


def with_typed_devices(
    options: ModelOptions,
    constraints: PlacementConstraints,
    typed: Mapping[str, Any],
    spelled: Callable[[str], str] = str,
) -> tuple[ModelOptions, PlacementConstraints]:
    """For a placement, which chooses the GPUs: what was typed about their number, and of the context, constrains it.

    Raises ConflictingOptions.
    """
    devices, is_on_one = typed.get("devices"), typed.get("split_mode") == "none"
    if is_on_one and (devices or 0) > 1:
        raise ConflictingOptions(
            f"{spelled('split_mode')} none uses one GPU, not {spelled('devices')} {devices}; remove one of them"
        )
    if typed.get("ctx_size") is not None:
        constraints = replace(constraints, has_auto_context=False)
    if is_on_one:
        constraints = replace(constraints, min_gpus=1, max_gpus=1)
    if devices:
        constraints = replace(constraints, min_gpus=devices, max_gpus=devices)
    options = with_typed_options(options, {**typed, "devices": None}, spelled)
    return (replace(options, n_gpu_layers=0) if devices == 0 else options), constraints
