"""Translates the original service's config.json: each of its keys becomes one of our settings, or a warning.

An existing file may also contain our own sections, and our own keys in `gpu` and in a model, as the warnings advise.

The original's keys and defaults are those of its `config.py`; it ignored unknown keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.entities.launch import ALL_LAYERS
from app.settings.agents import installed_agents
from app.settings.sections.gpu import GpuSettings
from app.settings.sections.model import ModelSettings

Place = tuple[str | int, ...]

BACKEND_VARIABLE = "LLM_PROXY_BACKEND"

_ONE_GPU_FIRST = "a model is placed on one GPU if it fits there, else on as few as possible"
_GPU_COUNT = "set it per model, with models.NAME.min_gpus and models.NAME.max_gpus"
_ESTIMATE = "memory is estimated from the header of the model file; gpu.reserve keeps memory free"

# Keys without an equivalent setting -> what happens instead.
_WITHOUT_SETTING = {
    "server_pool.host": "each llama-server listens on 127.0.0.1",
    "server_pool.port_start": "each llama-server listens on a free port",
    "server_pool.health_timeout": "a load may take as long as it makes progress (scheduling.stall_timeout_seconds)",
    "gpu.enable_gpu_monitoring": "GPUs are always monitored; gpu.enabled: false disables their use",
    "gpu.allocation_strategy": _ONE_GPU_FIRST,
    "gpu.gpu_allocation_strategy": _ONE_GPU_FIRST,
    "gpu.kv_offload": "the KV cache of a layer is on the device of that layer",
    "gpu.max_gpus": _GPU_COUNT,
    "gpu.min_gpus": _GPU_COUNT,
    "gpu.force_spread": f"{_ONE_GPU_FIRST}; to use more, set models.NAME.min_gpus",
    "gpu.spread_only_if_necessary": f"{_ONE_GPU_FIRST}; to use more, set models.NAME.min_gpus",
    "gpu.repack": "to disable it, set models.NAME.args: [--no-repack]",
    "gpu.no_host": "to enable it, set models.NAME.args: [--no-host]",
    "gpu.activation_overhead_factor": _ESTIMATE,
    "gpu.vram_headroom_factor": _ESTIMATE,
    "ollama": "there is no ollama backend; llama-server runs all models",
    "simulation": "there is no simulation; if no model is configured, the service has a small demo model",
}

# Values of these keys that match what this service always does: no warning.
_ALREADY_DONE: Mapping[str, tuple[Any, ...]] = {
    "gpu.enable_gpu_monitoring": (True,),
    "gpu.allocation_strategy": ("single-gpu-preferred",),
    "gpu.gpu_allocation_strategy": ("single-gpu-preferred", None),
    "gpu.kv_offload": (True,),
    "gpu.force_spread": (False,),
    "gpu.spread_only_if_necessary": (True,),
}

# Keys with an equivalent setting.
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
_OURS = ("keys", "engine", "catalog", "upstream", "scheduling", "defaults")  # sections the original lacks
_MODELS = ("simulation.llama_cpp_models", "llama_cpp.models", "models")  # later ones take precedence
_DEFAULTS: Mapping[str, Any] = {"server.host": "0.0.0.0", "server.port": 8000}


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The content of a configuration file, in our own keys."""

    data: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()
    is_original: bool = False
    names: Mapping[Place, Place] = field(default_factory=dict)  # place in `data` -> place in the file

    def original_place(self, place: Place) -> Place:
        """The place in the file of the value at `place` in `data`."""
        above = next((place[:count] for count in range(len(place), 0, -1) if place[:count] in self.names), ())
        return self.names.get(above, ()) + place[len(above) :]


def is_original(data: Mapping[str, Any]) -> bool:
    return "server_pool" in data or "backend" in data


def translate(data: dict[str, Any], environ: Mapping[str, str]) -> FileSettings:
    """The file in our own keys; unchanged unless it is the original service's."""
    if not is_original(data):
        return FileSettings(data)
    ours = {section: value for section, value in data.items() if section in _OURS}
    settings: dict[str, Any] = {}
    names: dict[Place, Place] = {}
    leaves = {**_DEFAULTS, **dict(_leaves({key: value for key, value in data.items() if key not in ours}))}
    for key, place in _SETTINGS.items():
        if leaves.get(key) is not None:
            settings.setdefault(str(place[0]), {})[place[1]] = _translate_value(key, leaves[key])
            names[place] = tuple(key.split("."))
    agents, agent_warnings = _agents(leaves)
    models, model_names, model_warnings = _models(leaves)
    warnings = (*_backend(leaves, environ), *_warnings(leaves), *agent_warnings, *model_warnings)
    return FileSettings(_merge_ours(settings, ours) | {"models": models} | agents, warnings, True, names | model_names)


def _translate_value(key: str, value: Any) -> Any:
    """Our equivalent of the original's value. Invalid values are returned unchanged: validation reports them."""
    match key, value:
        case "server_pool.gpu_layers", int() if not 0 <= value < ALL_LAYERS:
            return "all"
        case "gpu.cpu_fallback", bool():
            return "auto" if value else "never"
    return value


def _merge_ours(settings: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, overridden by our own sections of the file; `keys` above all."""
    merged = {
        key: {**settings[key], **value} for key, value in ours.items() if key in settings and isinstance(value, dict)
    }
    return {**settings, **ours, **merged}


def _leaves(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The file's keys, such as "server.port", and their values; a section handled as a whole is one key."""
    for section, value in data.items():
        whole = section in _WITHOUT_SETTING and section != "simulation"
        if section in _MODELS or whole or not isinstance(value, Mapping):
            yield section, value
        else:
            yield from ((f"{section}.{key}", leaf) for key, leaf in value.items())


def _backend(leaves: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    if leaves.get("backend", "llama.cpp") != "llama.cpp":
        yield "backend: not used; llama-server is the only backend"
    if BACKEND_VARIABLE in environ:
        yield f"{BACKEND_VARIABLE}: not used; llama-server is the only backend"


def _warnings(leaves: Mapping[str, Any]) -> Iterator[str]:
    """One line for each key without an equivalent setting."""
    for key in leaves:
        if key in _SETTINGS or key in (*_MODELS, "backend", "agents") or leaves[key] in _ALREADY_DONE.get(key, ()):
            continue
        section = key.split(".")[0]
        if why := _WITHOUT_SETTING.get(key) or _WITHOUT_SETTING.get(section):
            yield f"{key}: not used; {why}"
        else:
            yield f"{key}: unknown key; not used, as in the original service"


def _agents(leaves: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The agents that are installed as packages; the original's were files in a folder."""
    names = leaves.get("agents") or []
    if not isinstance(names, list):
        return {"agents": names}, []  # validation reports it
    installed = installed_agents() if names else {}
    lost = [name for name in names if name not in installed]
    warnings = [f"agents: {name} not used; no package with this agent is installed (docs/agents.md)" for name in lost]
    return {"agents": [name for name in names if name in installed]}, warnings


def _models(leaves: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Place, Place], list[str]]:
    """The original's {name: {repo, variant}} as our {name: {repo: "repo:variant"}}, with our own keys of a model."""
    models: dict[str, Any] = {}
    names: dict[Place, Place] = {}
    warnings: list[str] = []
    for key in _MODELS:
        entries = leaves.get(key) or {}
        if not isinstance(entries, Mapping):
            warnings.append(f"{key}: not used; must be a mapping of names to models")
            continue
        for name, entry in entries.items():
            models[name], unused = _model(entry)
            names[("models", name)] = (*key.split("."), name)
            names[("models", name, "repo")] = (*key.split("."), name)
            warnings += [f"{key}.{name}.{unknown}: unknown key; not used" for unknown in unused]
    return models, names, warnings


def _model(entry: Any) -> tuple[Any, list[str]]:
    if not isinstance(entry, Mapping):
        return entry, []  # validation reports it
    repo, variant = entry.get("repo"), entry.get("variant")
    ours = {key: value for key, value in entry.items() if key in ModelSettings.model_fields}
    source = f"{repo}:{variant}" if variant else repo
    return ours | {"repo": source}, [key for key in entry if key not in (*ours, "repo", "variant")]
