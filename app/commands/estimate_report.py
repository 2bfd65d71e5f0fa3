"""The output of `estimate`: JSON, or a table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from app.entities.gguf import GgufHeader
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.use_cases.estimate.largest_context import Fit
from app.use_cases.estimate.tensor_split import used_gpus

MIB = 1024**2
ITEMS = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes")
PROMPT_CACHE = "prompt_cache_bytes"
HOST_ITEMS = (*ITEMS[:3], PROMPT_CACHE)


def report_data(
    path: str,
    header: GgufHeader,
    options: ModelOptions,
    result: Estimate,
    notes: Sequence[str],
    fits: Sequence[Fit] | None,
) -> dict[str, Any]:
    """The report as a JSON object. `fits` is None without --fit-in."""
    report = {
        "model": {
            "path": path,
            "name": str(header.metadata.get("general.name", "")),
            "architecture": header.architecture,
            "tensor_bytes": sum(tensor.size_bytes for tensor in header.tensors),
        },
        "settings": asdict(options),
        "devices": [{"gpu": gpu, **_items(each)} for gpu, each in zip(used_gpus(options), result.devices, strict=True)],
        "host": {item: value for item, value in asdict(result.host).items() if item in HOST_ITEMS},
        "confidence": str(result.confidence),
        "notes": [*result.notes, *notes, *backing(result)],
    }
    return report if fits is None else report | {"fit": [asdict(fit) for fit in fits]}


def backing(result: Estimate) -> list[str]:
    """What stands behind the confidence, as a note: the worst measured error, or what is booked on top."""
    if result.confidence is Confidence.LOW:
        return [f"{100 * _margin_share(result):.0f} % booked on top"]
    if found := result.measured_error:
        return [f"measured within {math.ceil(10_000 * found.share) / 100:g} % over {found.rows} rows"]
    return []


def _margin_share(result: Estimate) -> float:
    """The largest of all devices."""
    each = [(one.margin_bytes, one.total_bytes - one.overhead_bytes) for one in (*result.devices, result.host)]
    return max(margin / max(1, total) for margin, total in each)


def _items(memory: DeviceMemory) -> dict[str, int]:
    items = asdict(memory) | {"total_bytes": memory.total_bytes}
    return {item: size for item, size in items.items() if item != PROMPT_CACHE}


def report_lines(report: dict[str, Any], result: Estimate, why_nothing_fits: str, name: str = "") -> list[str]:
    """The report as text, in MiB. `name`: of a model of the catalogue."""
    model, settings = report["model"], report["settings"]
    slots = settings["parallel"]
    sharing = " sharing it" if settings["kv_unified"] and slots > 1 else ""
    about = f"{_printable(model['architecture'])}, {model['tensor_bytes'] / MIB:,.0f} MiB of tensors"
    return [
        f"{name or os.path.basename(model['path'])}  ({about})",
        f"context {settings['ctx_size']:,}, {slots} slot{'s' * (slots > 1)}{sharing},"
        f" KV {settings['cache_type_k']}/{settings['cache_type_v']}",
        "",
        *_table(result, [device["gpu"] for device in report["devices"]]),
        *_prompt_cache_lines(result.host.prompt_cache_bytes),
        "",
        ", ".join((f"confidence: {report['confidence']}", *backing(result))),
        *(note for note in report["notes"] if note not in backing(result)),
        *(_fit_line(fit) for fit in _distinct(report.get("fit", []))),
        *([f"it does not fit: {why_nothing_fits}"] if report.get("fit") == [] else []),
    ]


def _printable(text: str) -> str:
    """Text from a model file, escaped if it has control characters."""
    return text if text.isprintable() else repr(text)


def _table(result: Estimate, gpus: Sequence[int]) -> list[str]:
    has_margin = any(device.margin_bytes for device in (*result.devices, result.host))
    titles = ["weights", "context", "compute", "overhead", "total", *(["margin", "booked"] if has_margin else [])]
    rows = [("MiB", titles)]
    for gpu, device in zip(gpus, result.devices, strict=True):
        rows.append((f"GPU {gpu}", _cells(device, has_margin)))
    host = _cells(result.host, has_margin)
    rows.append(("RAM", host if result.host.overhead_bytes else [*host[:3], "", *host[4:]]))
    return [f"{name:8}" + "".join(f" {cell:>11}" for cell in cells).rstrip() for name, cells in rows]


def _prompt_cache_lines(size_bytes: int) -> list[str]:
    return [f"and up to {size_bytes / MIB:,.0f} MiB of RAM for the prompt cache"] if size_bytes else []


def _cells(memory: DeviceMemory, has_margin: bool) -> list[str]:
    sizes = [getattr(memory, item) for item in ITEMS] + [memory.total_bytes]
    sizes += [memory.margin_bytes, memory.booked_bytes] if has_margin else []
    return [f"{size / MIB:,.1f}" for size in sizes]


def _distinct(fits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fits, merged into one if several types were tried and make no difference, as for models without a cache."""
    if len(fits) > 1 and len({(fit["ctx_size"], fit["total_bytes"]) for fit in fits}) == 1:
        return [fits[0] | dict.fromkeys(("cache_type_k", "cache_type_v"), "any")]
    return fits


def _fit_line(fit: dict[str, Any]) -> str:
    k, v = fit["cache_type_k"], fit["cache_type_v"]
    return (
        f"fits with KV {k if k == v else f'{k}/{v}':5} up to a context of {fit['ctx_size']:>9,} tokens"
        f" ({fit['total_bytes'] / MIB:,.0f} MiB booked on the fullest device)"
    )
