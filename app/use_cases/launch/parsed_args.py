"""Parses llama-server arguments: the options and files in a model's `args`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.entities.launch import ALL_LAYERS, LaunchSettings, LoadMode, ModelOptions, Task
from app.use_cases.estimate.kv_cache import CACHE_TYPES

MOST_DIGITS = 10
_BUFFER = re.compile(r"CPU|RPC\S*|[A-Za-z]+[0-9]{1,3}")  # as in CUDA0, Vulkan1
_Reading = Callable[[str], dict[str, Any]]

# Options without a value, by any of their names.
_SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "--swa-full": {"swa_full": True},
    "--embeddings": {"task": Task.EMBEDDING},
    "--embedding": {"task": Task.EMBEDDING},
    "--reranking": {"task": Task.RERANK},
    "--rerank": {"task": Task.RERANK},
    "--kv-unified": {"kv_unified": True},
    "-kvu": {"kv_unified": True},
    "--no-kv-unified": {"kv_unified": False},
    "-no-kvu": {"kv_unified": False},
    "--no-kv-offload": {"kv_offload": False},
    "-nkvo": {"kv_offload": False},
    "--cpu-moe": {"n_cpu_moe": ALL_LAYERS},
    "-cmoe": {"n_cpu_moe": ALL_LAYERS},
    "--kv-offload": {"kv_offload": True},
    "-kvo": {"kv_offload": True},
    "--mmproj-offload": {"mmproj_offload": True},
    "--no-mmproj-offload": {"mmproj_offload": False},
    "--repack": {"repack": True},
    "--no-repack": {"repack": False},
    "-nr": {"repack": False},
    "--spec-draft-cpu-moe": {"draft_n_cpu_moe": ALL_LAYERS},
    "--cpu-moe-draft": {"draft_n_cpu_moe": ALL_LAYERS},
    "-cmoed": {"draft_n_cpu_moe": ALL_LAYERS},
    "--spec-default": {"speculation": "ngram-mod"},
    "--mmap": {"load_mode": LoadMode.MMAP},
    "--no-mmap": {"load_mode": LoadMode.READ},
    "--direct-io": {"load_mode": LoadMode.DIRECT},
    "-dio": {"load_mode": LoadMode.DIRECT},
}
# Of --load-mode, which replaced these switches. With mlock nothing is changed: it says more than how to read.
_LOAD_MODES = {
    "none": LoadMode.READ,
    "mmap": LoadMode.MMAP,
    "dio": LoadMode.DIRECT,
    **dict.fromkeys(("auto", "mlock", "mmap+mlock"), LoadMode.AUTO),
}


def _text(names: str, field: str) -> dict[str, _Reading]:
    return dict.fromkeys(names.split(), lambda value: {field: value})


def _count(names: str, field: str) -> dict[str, _Reading]:
    return dict.fromkeys(names.split(), lambda value: {field: _natural(value)})


def _natural(value: str) -> int:
    """A non-negative number. Raises ValueError for others: negative ones mean llama-server's own choice."""
    if not value.isascii() or not value.isdecimal() or len(value) > MOST_DIGITS:
        raise ValueError(value)
    return int(value)


def _layers(names: str, field: str) -> dict[str, _Reading]:
    """A number of layers, or llama-server's words for all, with which nothing is left to its choice here."""

    def read(value: str) -> dict[str, Any]:
        return {field: ALL_LAYERS if value in ("all", "auto", "-1", "-2") else _natural(value)}

    return dict.fromkeys(names.split(), read)


def _cache_type(names: str, field: str) -> dict[str, _Reading]:
    def read(value: str) -> dict[str, Any]:
        if value not in CACHE_TYPES:
            raise ValueError(value)
        return {field: value}

    return dict.fromkeys(names.split(), read)


def _shares(value: str) -> dict[str, Any]:
    shares = tuple(float(share) for share in value.replace("/", ",").split(","))
    if not all(0 <= share < 1e9 for share in shares):
        raise ValueError(value)
    return {"tensor_split": shares if any(shares) else ()}  # all zero: llama-server splits by free memory


def _slots(value: str) -> dict[str, Any]:
    """An explicit number of slots means separate caches."""
    return {"parallel": _natural(value), "kv_unified": False}


def _override(names: str, field: str) -> dict[str, _Reading]:
    def read(value: str) -> dict[str, Any]:
        pairs = [override.partition("=") for override in value.split(",")]
        return {field: tuple((_pattern(pattern), _buffer(buffer)) for pattern, _, buffer in pairs)}

    return dict.fromkeys(names.split(), read)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(text) from error
    return text


def _buffer(name: str) -> str:
    """The name of a device's own buffer type: llama-server does not start with another."""
    if not _BUFFER.fullmatch(name):
        raise ValueError(name)
    return name


def _load_mode(value: str) -> dict[str, Any]:
    if value not in _LOAD_MODES:
        raise ValueError(value)
    return {"load_mode": _LOAD_MODES[value]}


def _dense_in_ram(value: str) -> dict[str, Any]:
    """The patterns that common/arg.cpp generates for --n-cpu-ffn."""
    return {"overrides": tuple((rf"blk\.{il}\.ffn_(up|down|gate)\.", "CPU") for il in range(min(_natural(value), 512)))}


_VALUES: Mapping[str, _Reading] = {
    **_count("--ctx-size -c", "ctx_size"),
    **_count("--batch-size -b", "batch_size"),
    **_count("--ubatch-size -ub", "ubatch_size"),
    **_cache_type("--cache-type-k -ctk", "cache_type_k"),
    **_cache_type("--cache-type-v -ctv", "cache_type_v"),
    **_text("--flash-attn -fa", "flash_attn"),
    **_layers("--gpu-layers --n-gpu-layers -ngl", "n_gpu_layers"),
    **_count("--n-cpu-moe -ncmoe", "n_cpu_moe"),
    **_text("--split-mode -sm", "split_mode"),
    **_count("--main-gpu -mg", "main_gpu"),
    **_count("--image-max-tokens", "image_max_tokens"),
    **_text("--spec-type", "speculation"),
    **_count("--spec-draft-n-max --draft-max --draft -n-max", "draft_max"),
    **_cache_type("--spec-draft-type-k --cache-type-k-draft -ctkd", "draft_cache_type_k"),
    **_cache_type("--spec-draft-type-v --cache-type-v-draft -ctvd", "draft_cache_type_v"),
    **_layers("--spec-draft-ngl --gpu-layers-draft --n-gpu-layers-draft -ngld", "draft_n_gpu_layers"),
    **dict.fromkeys(("--parallel", "-np"), _slots),
    **_override("--override-tensor -ot", "overrides"),
    **_override("--spec-draft-override-tensor --override-tensor-draft -otd", "draft_overrides"),
    **_count("--spec-draft-n-cpu-moe --spec-draft-ncmoe --n-cpu-moe-draft -ncmoed", "draft_n_cpu_moe"),
    **dict.fromkeys(("--load-mode", "-lm"), _load_mode),
    **dict.fromkeys(("--n-cpu-ffn", "-ncffn"), _dense_in_ram),
    **dict.fromkeys(("--tensor-split", "-ts"), _shares),
    **dict.fromkeys(
        ("--spec-draft-device", "--device-draft", "-devd"),
        lambda value: {"draft_device": _natural(value.removeprefix("CUDA").removeprefix("Vulkan"))},
    ),
}
READ_SWITCHES, READ_VALUES = frozenset(_SWITCHES), frozenset(_VALUES)
COMPANIONS = frozenset({"--mmproj", "-mm", "--spec-draft-model", "--model-draft", "-md", "--lora", "--lora-scaled"})
_SLOTS = frozenset({"--parallel", "-np"})
_NOT_UNIFIED = frozenset({"--no-kv-unified", "-no-kvu"})
_CUMULATIVE = frozenset({"overrides", "draft_overrides"})  # fields that repeated options add to


def parse_model_options(args: Sequence[str]) -> ModelOptions:
    """The options these arguments set; llama-server's defaults for the others.

    A value that cannot be parsed is ignored here: llama-server reports it when it starts.
    """
    return with_arguments(ModelOptions(), list(option_pairs(args)))


def with_arguments(options: ModelOptions, pairs: Sequence[tuple[str, str]]) -> ModelOptions:
    """The options, overridden by these arguments."""
    if not any(option in _SLOTS for option, _ in pairs):  # llama-server's default number of slots shares the cache
        pairs = [(option, value) for option, value in pairs if option not in _NOT_UNIFIED]
    # --parallel implies --no-kv-unified unless --kv-unified is given, so kv options are applied last.
    for option, value in sorted(pairs, key=lambda pair: "kv" in pair[0]):
        fields = _read_option(option, value)
        for field in _CUMULATIVE & fields.keys():
            fields = {**fields, field: getattr(options, field) + fields[field]}
        options = replace(options, **fields)
    return options


def option_pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each argument with the next one, which is its value if it is an option that takes one."""
    for option, value in zip(args, [*args, ""][1:], strict=True):
        name, equals, inline = option.partition("=")
        if name.startswith("--"):
            yield name.replace("_", "-"), inline if equals else value
        else:
            yield option, value


def _read_option(option: str, value: str) -> Mapping[str, Any]:
    try:
        return read_option(option, value)
    except ValueError:
        return {}


def read_option(option: str, value: str) -> Mapping[str, Any]:
    """The fields that this option sets; {} if it is none that affects memory. Raises ValueError for its value."""
    if option in _SWITCHES:
        return _SWITCHES[option]
    return _VALUES[option](value) if option in _VALUES else {}


@dataclass(frozen=True, slots=True)
class CompanionPaths:
    """The files a llama-server reads in addition to the model."""

    projector: str | None = None
    draft: str | None = None
    adapters: tuple[str, ...] = ()


def companion_paths(launch: LaunchSettings) -> CompanionPaths:
    """The companion files in these settings. The last of a repeated option counts; adapters accumulate."""
    found = CompanionPaths(launch.mmproj)
    for option, value in option_pairs(launch.args):
        if option in ("--mmproj", "-mm"):
            found = replace(found, projector=launch.mmproj or value)
        elif option in ("--spec-draft-model", "--model-draft", "-md"):
            found = replace(found, draft=value)
        elif option == "--lora":
            found = replace(found, adapters=found.adapters + tuple(value.split(",")))
        elif option == "--lora-scaled":
            found = replace(
                found, adapters=found.adapters + tuple(adapter.rpartition(":")[0] for adapter in value.split(","))
            )
    return found
