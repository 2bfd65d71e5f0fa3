"""The original service's config.json, read as it is: each of its keys becomes a setting of ours, or a warning.

Our sections that it never had, and our keys of `gpu` and of a model, may stand in it too: a file that is there already
can be added to, as its warnings advise.

Its keys and defaults are those of its `config.py`; it ignored keys that it did not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.entities.launch import ALL_LAYERS
from app.settings.gpu import GpuSettings
from app.settings.model import ModelSettings

Place = tuple[str | int, ...]

BACKEND_VARIABLE = "LLM_PROXY_BACKEND"

_ONE_GPU_FIRST = "a model gets one GPU where one has room, else as few as hold it"
_NUMBER = "each model has its own: models.NAME.min_gpus and models.NAME.max_gpus"
_ESTIMATE = "memory is estimated from the header of the model's file; gpu.reserve holds back room"

# Keys that have no setting here -> what happens instead.
_WITHOUT_SETTING = {
    "server_pool.host": "each llama-server listens on 127.0.0.1",
    "server_pool.port_start": "each llama-server chooses a free port of its own",
    "server_pool.health_timeout": "a load may take as long as it shows progress (scheduling.stall_timeout_seconds)",
    "gpu.enable_gpu_monitoring": "GPUs are read in any case; gpu.enabled: false turns them off",
    "gpu.allocation_strategy": _ONE_GPU_FIRST,
    "gpu.gpu_allocation_strategy": _ONE_GPU_FIRST,
    "gpu.kv_offload": "the KV cache lies where its layers do",
    "gpu.max_gpus": _NUMBER,
    "gpu.min_gpus": _NUMBER,
    "gpu.force_spread": f"{_ONE_GPU_FIRST}; for more, models.NAME.min_gpus",
    "gpu.spread_only_if_necessary": f"{_ONE_GPU_FIRST}; for more, models.NAME.min_gpus",
    "gpu.repack": "to turn it off, models.NAME.args: [--no-repack]",
    "gpu.no_host": "to turn it on, models.NAME.args: [--no-host]",
    "gpu.activation_overhead_factor": _ESTIMATE,
    "gpu.vram_headroom_factor": _ESTIMATE,
    "ollama": "there is no ollama backend; models run by llama-server",
    "agents": "there are no agents here; clients call /v1/chat/completions",
    "simulation": "there is no simulation here; without models of its own the service has a small demo model",
}

# Of these keys, the values that ask for what is done anyway.
_DONE_ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "gpu.enable_gpu_monitoring": (True,),
    "gpu.allocation_strategy": ("single-gpu-preferred",),
    "gpu.gpu_allocation_strategy": ("single-gpu-preferred", None),
    "gpu.kv_offload": (True,),
    "gpu.force_spread": (False,),
    "gpu.spread_only_if_necessary": (True,),
}

# Keys that are a setting here.
_SETTINGS: Mapping[str, Place] = {
    "server.host": ("server", "host"),
    "server.port": ("server", "port"),
    "server_pool.size": ("scheduling", "max_loaded"),
    "server_pool.gpu_layers": ("defaults", "n_gpu_layers"),
    "server_pool.request_timeout": ("upstream", "first_byte_seconds"),
    "gpu.monitoring_interval": ("gpu", "poll_seconds"),
    "gpu.cache_type_k": ("defaults", "cache_type_k"),
    "gpu.cache_type_v": ("defaults", "cache_type_v"),
    **{f"gpu.{key}": ("gpu", key) for key in GpuSettings.model_fields},
}
_OURS = ("keys", "engine", "catalog", "upstream", "scheduling", "defaults")  # sections that it never had
_MODELS = ("simulation.llama_cpp_models", "llama_cpp.models", "models")  # the last one has the last word
_DEFAULTS: Mapping[str, Any] = {"server.host": "0.0.0.0", "server.port": 8000}


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What a file says, in our own keys."""

    data: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()
    is_original: bool = False
    names: Mapping[Place, Place] = field(default_factory=dict)  # our place -> the one in the file

    def original_place(self, place: Place) -> Place:
        """Where the file has what stands at this place of ours."""
        above = next((place[:count] for count in range(len(place), 0, -1) if place[:count] in self.names), ())
        return self.names.get(above, ()) + place[len(above) :]


def is_original(data: Mapping[str, Any]) -> bool:
    return "server_pool" in data or "backend" in data


def translate(data: dict[str, Any], environ: Mapping[str, str]) -> FileSettings:
    """The file in our own keys: itself, or the original service's."""
    if not is_original(data):
        return FileSettings(data)
    ours = {section: value for section, value in data.items() if section in _OURS}
    settings: dict[str, Any] = {}
    names: dict[Place, Place] = {}
    leaves = {**_DEFAULTS, **dict(_leaves({key: value for key, value in data.items() if key not in ours}))}
    for key, place in _SETTINGS.items():
        if leaves.get(key) is not None:
            settings.setdefault(str(place[0]), {})[place[1]] = _in_our_words(key, leaves[key])
            names[place] = tuple(key.split("."))
    models, model_names, model_warnings = _models(leaves)
    warnings = (*_backend(leaves, environ), *_warnings(leaves), *model_warnings)
    return FileSettings(_with_ours(settings, ours) | {"models": models}, warnings, True, names | model_names)


def _in_our_words(key: str, value: Any) -> Any:
    """What its value is called here; the settings say what is wrong with one that it never had."""
    match key, value:
        case "server_pool.gpu_layers", int() if not 0 <= value < ALL_LAYERS:
            return "all"
        case "gpu.cpu_fallback", bool():
            return "auto" if value else "never"
    return value


def _with_ours(settings: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody added to the file in our own words is stronger: keys, above all."""
    merged = {
        key: {**settings[key], **value} for key, value in ours.items() if key in settings and isinstance(value, dict)
    }
    return {**settings, **ours, **merged}


def _leaves(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Its keys as "server.port": one or two deep, whole sections where they mean one thing."""
    for section, value in data.items():
        whole = section in _WITHOUT_SETTING and section != "simulation"
        if section in _MODELS or whole or not isinstance(value, Mapping):
            yield section, value
        else:
            yield from ((f"{section}.{key}", each) for key, each in value.items())


def _backend(leaves: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    if leaves.get("backend", "llama.cpp") != "llama.cpp":
        yield "backend: not used; models run by llama-server, there is no other backend"
    if BACKEND_VARIABLE in environ:
        yield f"{BACKEND_VARIABLE}: not used; models run by llama-server, there is no other backend"


def _warnings(leaves: Mapping[str, Any]) -> Iterator[str]:
    """One line for each key that has no setting here."""
    for key in leaves:
        if key in _SETTINGS or key in _MODELS or key == "backend" or leaves[key] in _DONE_ANYWAY.get(key, ()):
            continue
        section = key.split(".")[0]
        if why := _WITHOUT_SETTING.get(key) or _WITHOUT_SETTING.get(section):
            yield f"{key}: not used; {why}"
        else:
            yield f"{key}: unknown key; not used, as the original service did not use it"


def _models(leaves: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Place, Place], list[str]]:
    """Its {name: {repo, variant}} as our {name: {repo: "repo:variant"}}, with what was added in our words."""
    models: dict[str, Any] = {}
    names: dict[Place, Place] = {}
    warnings: list[str] = []
    for key in _MODELS:
        written = leaves.get(key) or {}
        if not isinstance(written, Mapping):
            warnings.append(f"{key}: not used; it is no mapping of names to models")
            continue
        for name, entry in written.items():
            models[name], unused = _model(entry)
            names[("models", name)] = (*key.split("."), name)
            names[("models", name, "repo")] = (*key.split("."), name)
            warnings += [f"{key}.{name}.{each}: unknown key; not used" for each in unused]
    return models, names, warnings


def _model(entry: Any) -> tuple[Any, list[str]]:
    if not isinstance(entry, Mapping):
        return entry, []  # the settings say what is wrong with it
    repo, variant = entry.get("repo"), entry.get("variant")
    ours = {key: value for key, value in entry.items() if key in ModelSettings.model_fields}
    source = f"{repo}:{variant}" if variant else repo
    return ours | {"repo": source}, [key for key in entry if key not in (*ours, "repo", "variant")]
