"""A llama-swap configuration as ours. Keys as in its config-schema.json and internal/config (October 2026)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.use_cases.migration.command import NotConvertible
from app.use_cases.migration.llama_swap_model import A_YEAR, LOADS, PORTS, Allowed, convert_model
from app.use_cases.migration.llama_swap_names import with_names
from app.use_cases.migration.llama_swap_routing import MEMORY, routing
from app.use_cases.migration.macros import Budget, Macros
from app.use_cases.migration.remarks import Remark, Remarks

_LOGS = "the service logs to stderr, at one level"
_UNNEEDED = {
    "startPort": PORTS,
    "healthCheckTimeout": LOADS,
    "groups": MEMORY,
    "matrix": MEMORY,
}
_DROPPED = {
    "peers": "write them as `peers` here, with url and api_key_env: docs/peers.md",
    "profiles": "there are no profiles; a model can have several aliases and variants",
    "captureBuffer": "requests and answers are not stored",
    "store": "requests are not stored",
    "upstream": "/upstream has no list of ignored paths; only admin keys may use it",
    "logLevel": _LOGS,
    "logTimeFormat": _LOGS,
    "logToStdout": _LOGS,
    "logRequests": "each request is logged, in one line",
}
_CONVERTED = frozenset(
    {
        "models",
        "macros",
        "globalTTL",
        "unloadTimeout",
        "sendLoadingState",
        "includeAliasesInList",
        "apiKeys",
        "hooks",
        "routing",
        "selectors",
    }
)


class NothingToConvert(Exception):
    """The file is not llama-swap's, or has no models."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """`settings` as our file has them; `lost`: models without an entry there."""

    settings: dict[str, Any] = field(repr=False)  # hashes of keys, values of variables
    remarks: tuple[Remark, ...]
    lost: tuple[str, ...] = ()


def convert_llama_swap(data: Mapping[str, Any], environ: Mapping[str, str], allowed: Allowed) -> Conversion:
    """What `data`, read from llama-swap's file, is in our settings.

    `environ`: for `${env.NAME}`. Raises NothingToConvert, and MacrosTooLarge.
    """
    entries = data.get("models")
    if not isinstance(entries, Mapping) or not entries:
        raise NothingToConvert("it has no models; llama-swap's configuration has a mapping `models`")
    if not any(isinstance(entry, Mapping) and "cmd" in entry for entry in entries.values()):
        raise NothingToConvert("none of its models has a cmd, as those of llama-swap do")
    remarks = Remarks()
    settings = _settings_of_all(data, environ, remarks)
    models, programs, found = _models(data, entries, environ, allowed)
    models, named = with_names(models, entries)
    found += named
    settings |= _engine(programs, remarks)
    settings |= routing(data, models, entries, remarks)
    settings |= _downloads(models, settings.get("catalog", {}))
    lost = tuple(str(name) for name in entries if name not in models)
    return Conversion(settings | {"models": models}, (*remarks.found, *found), lost)


def _downloads(models: Mapping[str, Any], catalog: Mapping[str, Any]) -> dict[str, Any]:
    """llama-server fetches the model of its -hf: here a request may have the repositories of `models` fetched, and no
    others."""
    if not any("repo" in model for model in models.values()):
        return {}
    return {"catalog": {**catalog, "hugging_face": {"download": "allow"}}}


def _models(
    data: Mapping[str, Any], entries: Mapping[str, Any], environ: Mapping[str, str], allowed: Allowed
) -> tuple[dict[str, Any], list[str], list[Remark]]:
    """Those that can be converted, the programs they were started with, and the remarks."""
    models: dict[str, Any] = {}
    programs, found, budget = [], [], Budget()
    for name, entry in entries.items():
        remarks = Remarks(name)
        try:
            if not isinstance(entry, Mapping):
                raise NotConvertible("it is not a mapping of keys to values")
            macros = Macros(_definitions(name, data, entry), environ, budget)
            converted = convert_model(macros.expand(dict(entry)), _global_ttl(data), allowed, remarks)
            models[name] = converted.settings
            programs.append(converted.program)
        except NotConvertible as error:
            remarks = Remarks(name)
            remarks.dropped("", str(error))
        found += remarks.found
    return models, programs, found


def _definitions(name: str, data: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, object]:
    """In the order in which they may use each other; a model's own replace those of the file."""
    of_file, own = (
        macros if isinstance(macros, Mapping) else {} for macros in (data.get("macros"), entry.get("macros"))
    )
    return {"MODEL_ID": name, "PORT": data.get("startPort", 5800), **of_file, **own}


def _global_ttl(data: Mapping[str, Any]) -> Any:
    return data.get("globalTTL", 0)


def _settings_of_all(data: Mapping[str, Any], environ: Mapping[str, str], remarks: Remarks) -> dict[str, Any]:
    for key, value in data.items():
        if key in _UNNEEDED and value:
            remarks.unneeded(key, _UNNEEDED[key])
        elif key not in _CONVERTED and key not in _UNNEEDED and value:
            remarks.dropped(key, _DROPPED.get(key, "not a key that is known here"))
    settings: dict[str, Any] = {"scheduling": {"ttl_seconds": _ttl_of_all(data, remarks)}}
    if data.get("sendLoadingState") is True:
        settings["scheduling"]["loading_comments"] = "reasoning_content"
    if data.get("includeAliasesInList") is True:
        settings["catalog"] = {"list_aliases": True}
    if isinstance(seconds := data.get("unloadTimeout"), int) and seconds > 0:
        settings["server"] = {"stop_seconds": seconds}
    return settings | _keys(data.get("apiKeys"), Macros({}, environ, Budget()), remarks)


def _ttl_of_all(data: Mapping[str, Any], remarks: Remarks) -> float:
    seconds = _global_ttl(data)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        remarks.dropped("globalTTL", "not a number of seconds")
        seconds = 0
    if not seconds:
        remarks.changed(
            "globalTTL 0", "a model is unloaded when it has been idle for a year; the default here is 900 s"
        )
    return seconds or A_YEAR


def _keys(texts: Any, macros: Macros, remarks: Remarks) -> dict[str, Any]:
    """Each key by its hash. The keys themselves are not written anywhere."""
    if not isinstance(texts, list) or not texts:
        remarks.changed("", "the service listens on 127.0.0.1 only; for other machines set server.host and keys")
        return {}
    keys: dict[str, dict[str, str]] = {}
    for number, text in enumerate(texts, start=1):
        key = macros.expand(text)
        if not isinstance(key, str) or not key.strip() or key.startswith("${env."):
            remarks.dropped(f"apiKeys, entry {number}", "not a key, or its environment variable is not set here")
            continue
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        keys.setdefault(digest, {"name": f"key-{number}", "sha256": digest})
    if keys:
        remarks.changed("apiKeys", "kept as hashes; to load, unload and read decisions, a key needs admin: true here")
    return {"keys": list(keys.values())} if keys else {}


def _engine(programs: Iterable[str], remarks: Remarks) -> dict[str, Any]:
    """The llama-server that most models were started with, if it has a path."""
    counts: dict[str, int] = {}
    for program in programs:
        counts[program] = counts.get(program, 0) + 1
    if not counts:
        return {}
    binary = max(counts, key=counts.__getitem__)
    if others := [program for program in counts if program != binary]:
        remarks.dropped(", ".join(others), f"all models are started with one llama-server, {binary}")
    return {"engine": {"binary": binary}} if binary.startswith(("/", "~")) else {}
