"""The models on the page: those that are loaded with what their servers do, then the others with where they would go.

The same as templates/static/models.js.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.page.gpus import color_classes
from app.page.text import UNKNOWN, duration, rate, size, tokens
from app.use_cases.reporting.phrases import SHOWN_LOAD_BYTES

MAX_DOTS = 8
STATES = {"starting": "loading", "draining": "finishing"}  # as people say it
_STYLES = {"ready": "ok", "starting": "warn", "draining": "warn", "stopping": "warn", "failed": "bad"}
_OUTCOME_STYLES = {"place": "ok", "wait": "warn", "refuse": "bad"}
# Of GET /plan, by which the buttons of a row are chosen.
_PLAN_STATES = {"starting": "loading", "ready": "ready", "draining": "draining"}
_EMPTY = {"state_class": "", "progress": "", "place_note": "", "slots": "", "dots": (), "speed": "", "speed_note": ""}


def model_rows(status: Mapping[str, Any], plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    servers: dict[str, list[Mapping[str, Any]]] = {}
    for server in status["servers"]:
        servers.setdefault(server["model"], []).append(server)
    colors = color_classes(status)
    loaded: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for model in plan["models"]:
        own = servers.pop(model["id"], [])
        loaded += _replicas(model["id"], own, model, colors)
        rest += [] if own else [_peer_row(model) if model["state"] == "peer" else _unloaded_row(model)]
    for name, own in servers.items():  # of models that the catalogue has no more
        loaded += _replicas(name, own, {}, colors)
    return loaded + rest


def _replicas(
    name: str, servers: list[Mapping[str, Any]], model: Mapping[str, Any], colors: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The first has the model's key and its buttons."""
    for number, server in enumerate(servers):
        row = _server_row(server) | {"color": colors[name], "model": name, "details": _details(model)}
        if number:
            row |= {"key": f"{name}#{server['id']}", "data_state": "", "details": f"server {server['id']}"}
        else:
            row |= {"key": name, "data_state": _PLAN_STATES.get(server["state"], "unloaded")}
        yield row


def _server_row(server: Mapping[str, Any]) -> dict[str, Any]:
    is_up = server["state"] in ("ready", "draining")
    progress = server["progress"]
    percent = "" if progress is None else f" {100 * progress:.0f} %"
    return {
        "state": STATES.get(server["state"], server["state"]) + percent,
        "state_class": _STYLES.get(server["state"], ""),
        "progress": "" if progress is None else f"{progress:.3f}",
        "place": _place(server),
        "place_class": "",
        "place_note": " · ".join(_place_notes(server)),
        "slots": f"{server['slots_busy']} of {server['slots']}" if is_up else "",
        "dots": _dots(server) if is_up else (),
        "speed": f"{rate(server['tokens_per_second'])} out" if server["tokens_per_second"] else "",
        "speed_note": " · ".join(_speed_notes(server)),
        "context": _context(server),
        "context_note": f"instead of {tokens(server['full_ctx_size'])}" if server["full_ctx_size"] else "",
        "memory": size(server["measured_bytes"] if server["measured_bytes"] is not None else server["estimated_bytes"]),
        "memory_note": " · ".join(_memory_notes(server)),
        "idle": duration(server["idle_seconds"]) if _is_idle(server) else "",
        "idle_note": _unloads(server),
        "problem": server["problem"],
        "log": "",
    }


def _speed_notes(server: Mapping[str, Any]) -> Iterator[str]:
    if server["prompt_tokens_per_second"]:
        yield f"{rate(server['prompt_tokens_per_second'])} in"
    if drafts := server.get("drafts"):
        yield f"{drafts['accepted_percent']} % of drafts accepted"


def _memory_notes(server: Mapping[str, Any]) -> Iterator[str]:
    yield f"estimate {size(server['estimated_bytes'])}" if server["measured_bytes"] else "estimate"
    if cache := server.get("prompt_cache_bytes"):
        yield f"prompt cache up to {size(cache)}"
    load = server.get("load")
    if load and load["size_bytes"] >= SHOWN_LOAD_BYTES:
        yield f"loaded at {size(load['bytes_per_second'])}/s"


def _is_idle(server: Mapping[str, Any]) -> bool:
    return bool(server["state"] == "ready" and not server["requests"])


def _place(server: Mapping[str, Any]) -> str:
    if server["gpus"]:
        return f"GPU{'s' if len(server['gpus']) > 1 else ''} {'+'.join(map(str, server['gpus']))}"
    return "CPU" if server["device"] == "cpu" else server["device"] or UNKNOWN


def _place_notes(server: Mapping[str, Any]) -> Iterator[str]:
    if not server["device"].startswith(("cuda", "cpu")):
        yield server["device"]
    if server["pid"]:
        yield f"pid {server['pid']}"
    if engine := server.get("engine"):
        yield f"engine {engine}"


def _dots(server: Mapping[str, Any]) -> tuple[bool, ...]:
    busy, slots = server["slots_busy"], server["slots"]
    return tuple(number < busy for number in range(slots)) if slots <= MAX_DOTS else ()


def _context(server: Mapping[str, Any]) -> str:
    used, whole = server["context_used_tokens"], tokens(server["ctx_size"])
    return f"{tokens(used)} of {whole}" if used else whole


def _unloads(server: Mapping[str, Any]) -> str:
    if server["pinned"]:
        return "pinned"
    left = server["unloads_in_seconds"]
    return f"unloads in {duration(left)}" if left is not None and _is_idle(server) else ""


def _details(model: Mapping[str, Any]) -> str:
    """`Q4_K_M · 8.4 GiB · chat, tools · also gpt-4o-mini`"""
    if not model:
        return ""
    abilities = [each for each in model["capabilities"] if each not in ("completion", "chat")]
    aliases = f"also {', '.join(model['aliases'])}" if model["aliases"] else ""
    parts = (model["quant"], size(model["size_bytes"]) if model["size_bytes"] else "", ", ".join(abilities), aliases)
    return " · ".join(filter(None, parts))


def _peer_row(model: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is loaded or unloaded here, so it has no buttons."""
    return _unloaded_row({**model, "state": "unloaded"}) | {
        "data_state": "",
        "state": "unavailable" if model["problem"] else "at a peer",
        "state_class": "bad" if model["problem"] else "ok",
        "problem": model["problem"],
    }


def _unloaded_row(model: Mapping[str, Any]) -> dict[str, Any]:
    """A plan may be older than the status, in which the model has no server any more."""
    is_stale = model["state"] not in ("unloaded", "failed")
    failed = model["state"] == "failed"
    first, *log = model["problem"].split("\n")
    return _EMPTY | {
        "key": model["id"],
        "model": model["id"],
        "color": "",
        "details": _details(model),
        "data_state": "failed" if failed else "unloaded",
        "state": "failed" if failed else "unloaded",
        "state_class": "bad" if failed else "",
        "place": "" if is_stale or failed else model["text"],
        "place_class": "" if is_stale or failed else _OUTCOME_STYLES.get(model["outcome"], ""),
        "context": tokens(model["ctx_size"]),
        "context_note": "",
        "memory": size(model["needed_bytes"]) if model["needed_bytes"] else "",
        "memory_note": "needed" if model["needed_bytes"] else "",
        "idle": "",
        "idle_note": "pinned" if model["pinned"] else "",
        "problem": ": ".join([first, *log[:1]]) if failed else "",
        "log": "\n".join(log) if failed and len(log) > 1 else "",
    }
