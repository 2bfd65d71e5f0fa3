"""The GPUs on the page: of each its memory as one bar with a legend, its figures, and charts of the last minutes.

The same as templates/static/gpus.js.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from app.page.charts import chart
from app.page.text import duration, gib, percent, size, whole
from app.use_cases.reporting.status_parts import model_numbers, ram_parts

COLORS = 8  # classes of the style sheet
MAX_PROCESSES = 6  # named in a legend
LABELLED_SHARE = 0.08  # of the bar; on a smaller part not even the first word is readable
_KIND_NAMES = {"other": "other processes", "reserve": "reserve", "free": "free", "booked": "models"}
_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("name", "problem", "memory", "temperature"), ""),
    **dict.fromkeys(("bar", "legend", "charts"), ()),
}


def gpus_view(status: Mapping[str, Any], history: Mapping[str, Any]) -> dict[str, Any]:
    """`history`: the body of GET /status/history."""
    colors = color_classes(status)
    gpus = [_gpu(gpu, colors, history["gpus"].get(gpu["uuid"], {})) for gpu in status["gpus"]]
    missing = [
        _NOTHING
        | {"key": each["uuid"], "title": f"GPU {each['index']}", "name": each["name"], "problem": each["problem"]}
        for each in status["missing_gpus"]
    ]
    return {"gpus": [*gpus, *missing], "ram": [_ram(status["ram"])] if status["ram"] else [], "note": _note(status)}


def color_classes(status: Mapping[str, Any]) -> dict[str, str]:
    """A class for each loaded model."""
    return {name: f"c{number % COLORS}" for name, number in model_numbers(status).items()}


def _note(status: Mapping[str, Any]) -> str:
    if not status["gpus"] and not status["missing_gpus"]:
        why = f": {status['gpus_problem']}" if status["gpus_problem"] else ""
        return f"None{why}. If there should be one: llama-smart-proxy doctor."
    age = duration(status["gpus_age_seconds"])
    if status["gpus_state"] == "asleep":
        return f"Asleep until a model needs them. Last read {age} ago."
    return f"The driver does not respond. Last read {age} ago." if status["gpus_state"] == "hung" else ""


def _gpu(gpu: Mapping[str, Any], colors: Mapping[str, str], trends: Mapping[str, Any]) -> dict[str, Any]:
    notes = ["unified memory"] * gpu["unified"] + ["drives a display"] * gpu["drives_display"]
    return {
        "key": gpu["uuid"],
        "title": f"GPU {gpu['index']}",
        "name": gpu["name"] + (f" ({', '.join(notes)})" if notes else ""),
        "problem": gpu["problem"],
        **memory_view(gpu["segments"], colors, gpu["other_processes"]),
        "memory": f"{gib(gpu['used_bytes'])} of {gib(gpu['total_bytes'])} GiB",
        "temperature": whole(gpu["temperature_celsius"], "°C"),
        "charts": [
            chart("Utilization", whole(gpu["utilization_percent"], "%"), trends.get("utilization_percent", ()), 100),
            chart("Memory", f"{gib(gpu['used_bytes'])} GiB", trends.get("used_bytes", ()), gpu["total_bytes"]),
            chart("Power", whole(gpu["power_watts"], "W"), trends.get("power_watts", ()), None),
        ],
    }


def _ram(ram: Mapping[str, int]) -> dict[str, Any]:
    booked, other, free = ram_parts(ram)
    sizes = {"booked": booked, "other": other, "free": free}
    segments = [{"kind": kind, "model": None, "server": None, "bytes": each} for kind, each in sizes.items() if each]
    memory = f"{gib(booked + other)} of {gib(ram['total_bytes'])} GiB"
    return _NOTHING | {"key": "ram", "title": "RAM", "memory": memory, **memory_view(segments, {}, ())}


def memory_view(
    segments: Sequence[Mapping[str, Any]], colors: Mapping[str, str], processes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The bar's parts, and the legend that says the same in words."""
    total = sum(part["bytes"] for part in segments) or 1
    starts = [0, *accumulate(part["bytes"] for part in segments)]
    names = [_name(part) for part in segments]
    bar = [
        {
            "key": f"{part['kind']} {part['server'] or ''}".strip(),
            "class": f"{part['kind']} {colors.get(part['model'], '')}".strip(),
            "x": percent(start / total),
            "width": percent(part["bytes"] / total),
            "label": _label(part, name, part["bytes"] / total),
        }
        for part, start, name in zip(segments, starts, names, strict=False)
    ]
    legend = [
        {
            "key": shown["key"],
            "class": shown["class"],
            "part": name,
            "size": size(part["bytes"]),
            "note": _processes(processes) if part["kind"] == "other" else "",
        }
        for part, shown, name in zip(segments, bar, names, strict=True)
    ]
    return {"bar": bar, "legend": legend}


def _label(part: Mapping[str, Any], name: str, share: float) -> str:
    if part["kind"] in ("reserve", "free") or share < LABELLED_SHARE:
        return ""
    return f"{name.rpartition('/')[2]} {gib(part['bytes'])}"


def _name(part: Mapping[str, Any]) -> str:
    if part["kind"] == "claimed":
        return f"{part['model']}, loading"
    return str(part["model"] or _KIND_NAMES[part["kind"]])


def _processes(processes: Sequence[Mapping[str, Any]]) -> str:
    named = [_process(each) for each in processes[:MAX_PROCESSES]]
    more = len(processes) - len(named)
    return ", ".join([*named, *([f"{more} more"] if more else [])])


def _process(process: Mapping[str, Any]) -> str:
    sized = "" if process["bytes"] is None else f" {size(process['bytes'])}"
    return f"{process['name'] or 'unknown'} (pid {process['pid']}){sized}"
