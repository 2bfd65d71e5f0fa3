"""One model of a llama-swap configuration as an entry of `models`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.use_cases.migration.command import EngineCommand, NotConvertible, parse_command
from app.use_cases.migration.engine_options import model_settings
from app.use_cases.migration.llama_swap_filters import request_rules
from app.use_cases.migration.macros import unknown_macros
from app.use_cases.migration.remarks import Remarks

A_YEAR = 31_536_000
_REPO = re.compile(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", re.ASCII)
_SOURCES = {
    **dict.fromkeys(("--model", "-m"), "path"),
    **dict.fromkeys(("--hf-repo", "-hf", "-hfr"), "repo"),
    **dict.fromkeys(("--hf-file", "-hff"), "file"),
}
PORTS = "each llama-server listens on a free port of this machine"
LOADS = "a load may take any time while it makes progress (scheduling.stall_timeout_seconds)"
_UNNEEDED = {
    "proxy": PORTS,
    "checkEndpoint": "a server is ready when its /health says so",
    "cmdStop": "the service stops its llama-servers itself",
    "useModelName": "llama-server gets the model's name here",
    "capabilities": "what a model can do is read from its file",
    "healthCheckTimeout": LOADS,
}
_DROPPED = {
    "name": "lists show the model's name; an alias can be a name, too",
    "description": "model lists have no descriptions",
    "metadata": "model lists have no metadata of users",
    "unlisted": "every model is listed, to the keys that may use it (keys.models)",
    "concurrencyLimit": "`parallel` requests run, others wait; the limit on those is scheduling.max_waiting_per_model",
    "sendLoadingState": "one setting for all models, scheduling.loading_comments",
    "timeouts": "one setting for all models, in upstream",
    "unloadTimeout": "one setting for all models, server.stop_seconds",
}
_CONVERTED = ("cmd", "macros", "aliases", "env", "ttl", "filters")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Why an argument or a variable must not be set for llama-server; None if it may be."""

    argument: Callable[[str], str | None]
    variable: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    settings: dict[str, Any]
    program: str  # the llama-server that it was started with


def convert_model(entry: Mapping[str, Any], ttl: Any, allowed: Allowed, remarks: Remarks) -> ConvertedModel:
    """`entry` has its macros inserted; `ttl`: llama-swap's globalTTL. Raises NotConvertible."""
    if not isinstance(entry.get("cmd"), str):
        raise NotConvertible("it has no cmd" if "cmd" not in entry else "its cmd is not text")
    command = parse_command(entry["cmd"])
    source = _source(command, remarks)
    options = [option for option in command.options if option.name not in _SOURCES]
    settings = source | model_settings(options, allowed.argument, remarks)
    settings |= _environment([*command.env, *_lines(entry.get("env"))], allowed, remarks)
    settings |= _ttl(entry.get("ttl", -1), ttl, remarks)
    settings |= request_rules(entry.get("filters"), remarks)
    for key, value in entry.items():
        _remark_on(key, value, remarks)
    if unknown := unknown_macros(settings):
        raise NotConvertible(_unknown(unknown[0]))
    return ConvertedModel(settings, command.program)


def _source(command: EngineCommand, remarks: Remarks) -> dict[str, Any]:
    """The model's file or repository. Raises NotConvertible."""
    found = {_SOURCES[option.name]: option for option in command.options if option.name in _SOURCES}
    values = {kind: option.values[0] for kind, option in found.items() if len(option.values) == 1}
    if path := values.get("path"):
        if not path.startswith(("/", "~", "$")):
            remarks.changed(found["path"].name, "a relative path is below the folder of the new file, or a models_dir")
        return {"path": path}
    repo = values.get("repo", "")
    if repo and (file := values.get("file")):
        repo = f"{repo.partition(':')[0]}:{file}"
    if not _REPO.fullmatch(repo):
        raise NotConvertible("its command names no model file (--model) or repository (--hf-repo)")
    remarks.changed(found["repo"].name, "downloaded into the Hugging Face cache by its first request, or by `pull`")
    return {"repo": repo}


def _lines(env: Any) -> Iterable[str]:
    """llama-swap has a list of NAME=value; people also write a mapping."""
    if isinstance(env, Mapping):
        return [f"{name}={value}" for name, value in env.items()]
    return map(str, env) if isinstance(env, list) else ()


def _environment(lines: Iterable[str], allowed: Allowed, remarks: Remarks) -> dict[str, Any]:
    env: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name:
            remarks.dropped("env", "an entry is not NAME=value")
        elif name.upper() in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            remarks.unneeded(name, "the service chooses the GPUs; to restrict the choice, set gpus: [0, 1]")
        elif why := allowed.variable(name):
            remarks.dropped(name, why.partition(": ")[2] or why)
        else:
            env[name] = value
    return {"env": env} if env else {}


def _ttl(own: Any, of_all: Any, remarks: Remarks) -> dict[str, Any]:
    """llama-swap's 0 is never, its -1 what globalTTL says."""
    if own == -1 or own == of_all:
        return {}
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 <= own < float("inf"):
        remarks.dropped("ttl", "not a number of seconds")
        return {}
    return {"ttl_seconds": own or A_YEAR}


def _remark_on(key: str, value: Any, remarks: Remarks) -> None:
    is_default = value in (None, "", 0, False, [], {}) or (key, value) == ("checkEndpoint", "/health")
    if key in _CONVERTED or is_default:
        return
    if key in _UNNEEDED:
        remarks.unneeded(key, _UNNEEDED[key])
    else:
        remarks.dropped(key, _DROPPED.get(key, "not a key that is known here"))


def _unknown(macro: str) -> str:
    if macro.startswith("env."):
        return f"it uses the environment variable {macro.removeprefix('env.')}, which is not set here"
    return f"it uses the macro {macro}, which is not defined"
