"""From a model's settings to the options that decide about its memory, those hidden in its `args` included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from app.entities.launch import ALL_LAYERS, LaunchSettings, MemoryOptions, Task

_Change = Callable[[str], dict[str, Any]]


def _first(names: str, change: _Change) -> dict[str, _Change]:
    return dict.fromkeys(names.split(), change)


# Options without a value, by any of their names; what is settled by our own keys comes after `args` and wins.
_SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "--swa-full": {"swa_full": True},
    "--embeddings": {"task": Task.EMBEDDING},
    "--embedding": {"task": Task.EMBEDDING},
    "--reranking": {"task": Task.RERANK},
    "--rerank": {"task": Task.RERANK},
    "--no-kv-offload": {"kv_offload": False},
    "-nkvo": {"kv_offload": False},
    "--cpu-moe": {"n_cpu_moe": ALL_LAYERS},
    "-cmoe": {"n_cpu_moe": ALL_LAYERS},
    "--no-mmproj-offload": {"mmproj_offload": False},
}
_VALUES: Mapping[str, _Change] = {
    **_first("--n-cpu-moe -ncmoe", lambda value: {"n_cpu_moe": int(value)}),
    **_first("--split-mode -sm", lambda value: {"split_mode": value}),
    **_first("--main-gpu -mg", lambda value: {"main_gpu": int(value)}),
    **_first("--tensor-split -ts", lambda value: {"tensor_split": tuple(map(float, value.split(",")))}),
}


def memory_options(launch: LaunchSettings, devices: int = 0) -> MemoryOptions:
    """The options of a llama-server started with these settings on so many GPUs.

    An option of `args` that cannot be read is left to llama-server, which says why it does not like it.
    """
    options = MemoryOptions(
        ctx_size=launch.ctx_size,
        parallel=launch.parallel,
        kv_unified=launch.kv_unified,
        ubatch_size=launch.ubatch_size,
        cache_type_k=launch.cache_type_k,
        cache_type_v=launch.cache_type_v,
        flash_attn=launch.flash_attn,
        n_gpu_layers=launch.n_gpu_layers if devices else 0,
        devices=devices,
    )
    for option, value in zip_longest(launch.args, launch.args[1:], fillvalue=""):
        options = replace(options, **_said(option, value))
    return options


def _said(option: str, value: str) -> Mapping[str, Any]:
    if option in _SWITCHES:
        return _SWITCHES[option]
    name, _, inline = option.partition("=")
    if name not in _VALUES:
        return {}
    try:
        return _VALUES[name](inline or value)
    except ValueError:
        return {}
