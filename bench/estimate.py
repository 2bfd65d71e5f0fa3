"""Compares the estimates with llama.cpp's own figures: python -m bench.estimate [--misses]

Per device, without CUDA's overhead. Prints a table that ends with the estimates of other programs (bench/peers.py);
with --misses also every architecture with a row off by more than 2 %, and the reason. Writes
bench/results/estimate-<date>.json and, with matplotlib, .svg. Exits with an error if a booking, margin included, is
too small by more than 2 %.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from app.entities.launch import Task
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape, model_shape
from bench.error_plot import draw
from bench.known_misses import outdated, reason
from bench.peers import comparisons
from bench.record import record
from bench.truth.table import MIB, recorded
from bench.vram_truth import FITTED, LATER, Row, header, pairs, rows

RESULTS = Path(__file__).with_name("results")
WITHIN = 0.02
NEAR = 0.1
TINY_BYTES = 2048  # the truth is printed to a thousandth of a MiB

Measured = tuple[Row, dict[str, Any]]  # of one device


@cache
def shape_of(shape: str, quant: str) -> ModelShape:
    return model_shape(header(shape, quant))


def kind(row: Row) -> str:
    """The category of a row."""
    options = row.options
    if not row.devices:
        return "CPU"
    if options.task is not Task.COMPLETION:
        return "embedding, rerank"
    if options.n_gpu_layers <= shape_of(row.shape, row.quant).hparams.n_layer_all:
        return "partial offload"
    if options.flash_attn == "off":
        return "no flash attention"
    if len(row.devices) > 1:
        return "several GPUs"
    return "one GPU, quantized KV" if options.cache_type_k != "f16" else "one GPU"


@cache
def errors(row: Row) -> list[dict[str, Any]]:
    """Relative errors on each device: of the items, the total and the booking."""
    estimate = estimate_memory(shape_of(row.shape, row.quant), row.options)
    found = []
    for device, (weights, context, compute) in pairs(estimate, row):
        ours = device.weights_bytes + device.context_bytes + device.compute_bytes
        total = weights + context + compute
        found.append(
            {
                "weights": _relative(device.weights_bytes, weights),
                "context": _relative(device.context_bytes, context),
                "compute": _relative(device.compute_bytes, compute),
                "total": _relative(ours, total),
                "booked": _relative(ours + device.margin_bytes, total),
                "margin": device.margin_bytes / max(1, ours),
            }
        )
    return found


def _relative(ours: float, truth: float) -> float:
    return 0.0 if abs(ours - truth) <= TINY_BYTES else (ours - truth) / max(truth, TINY_BYTES)


def account(values: list[float]) -> dict[str, float]:
    """Statistics of relative errors."""
    sizes = sorted(abs(each) for each in values)
    return {
        "rows": len(sizes),
        "median_percent": round(100 * statistics.median(sizes), 4),
        "p90_percent": round(100 * sizes[int(0.9 * len(sizes))], 3),
        "max_percent": round(100 * sizes[-1], 2),
        "within_2_percent": _share(sizes, WITHIN),
        "within_10_percent": _share(sizes, NEAR),
        "under_by_more_than_2_percent": sum(each < -WITHIN for each in values),
    }


def _share(sizes: list[float], limit: float) -> float:
    return round(100 * sum(each <= limit for each in sizes) / len(sizes), 2)


def speed() -> dict[str, float]:
    """Microseconds per estimate, for the largest model on four GPUs."""
    row = next(each for each in rows() if each.shape == "llama-3.1-70b" and each.options.devices == 4)
    shape, times = shape_of(row.shape, row.quant), []
    for _ in range(500):
        begin = time.perf_counter()
        estimate_memory(shape, row.options)
        times.append(1e6 * (time.perf_counter() - begin))
    return {"median_us": round(statistics.median(times), 1), "max_us": round(max(times), 1)}


def main() -> None:
    measured = [(row, each) for row in rows((*FITTED, *LATER)) for each in errors(row)]
    peers = peer_errors()
    figures: dict[str, Any] = {name: account(values) for name, values in (groups(measured) | peers).items()}
    show(figures)
    worst = {item: max(abs(each[item]) for _, each in measured) for item in ("weights", "context")}
    figures["worst weights and context, percent"] = {name: round(100 * each, 4) for name, each in worst.items()}
    figures["smallest booked, percent"] = round(100 * min(each["booked"] for _, each in measured), 2)
    figures["misses"] = misses(measured)
    figures["speed"] = speed()
    write(figures, peers)
    if figures["smallest booked, percent"] < -100 * WITHIN:
        sys.exit("Margins are too small: python -m bench.margins")


def groups(measured: list[Measured]) -> dict[str, list[float]]:
    """Errors of the totals by data set, by category, and of all rows."""
    found: dict[str, list[float]] = defaultdict(list)
    for name in (lambda row: row.set), kind, (lambda row: "all"):
        for row, each in measured:
            found[name(row)].append(each["total"])
    return dict(found)


def peer_errors() -> dict[str, list[float]]:
    """Errors of other programs, and ours, on the rows that all of them can estimate."""
    found: dict[str, list[float]] = {name: [] for name in ("ours, same rows", "xllamacpp", "ollama")}
    for row, totals in comparisons(rows()):
        if len(totals) == len(found) - 1:
            found["ours, same rows"].append(errors(row)[0]["total"])
            for name, total in totals.items():
                found[name].append(_relative(total, sum(row.devices[0])))
    return found


def misses(measured: list[Measured]) -> list[dict[str, Any]]:
    """Architectures with rows off by more than 2 %: the reason, their margin, and each such row."""
    by_family: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for row, each in measured:
        by_family[shape_of(row.shape, row.quant).hparams.architecture, kind(row)].append((row, each))
    found = [_miss(*key, each) for key, each in by_family.items() if any(map(is_off, each))]
    return sorted(found, key=lambda miss: -abs(miss["worst_percent"]))


def is_off(measured: Measured) -> bool:
    return abs(measured[1]["total"]) > WITHIN


def _miss(family: str, kind_: str, measured: list[Measured]) -> dict[str, Any]:
    off = sorted(filter(is_off, measured), key=lambda pair: -abs(pair[1]["total"]))
    worst = off[0][1]
    item = max(("weights", "context", "compute"), key=lambda name: abs(worst[name]))
    size = f"{item} {abs(100 * worst[item]):.0f} % {'high' if worst[item] > 0 else 'low'}"
    return {
        "family": family,
        "kind": kind_,
        "rows": len(measured),
        "off": len(off),
        "worst_percent": round(100 * worst["total"], 1),
        "item": size,
        "reason": reason(family, kind_, size),
        "margins_percent": sorted({round(100 * each["margin"], 1) for _, each in off}),
        "smallest_booked_percent": round(100 * min(each["booked"] for _, each in measured), 1),
        "each": [_described(*pair) for pair in off],
    }


def _described(row: Row, each: dict[str, Any]) -> str:
    mib = sum(sum(device) for device in row.devices) / MIB
    found = f"{100 * each['total']:+.1f} %, booked {100 * each['booked']:+.1f} %"
    return f"{found}: {row.shape} {row.quant}, {mib:.0f} MiB, GPUs: {len(row.devices)}, {row.args}"


def show(figures: dict[str, Any]) -> None:
    print(f"{'':22} {'rows':>5} {'median %':>9} {'p90 %':>7} {'max %':>8} {'in 2 %':>7} {'in 10 %':>7} {'under':>6}")
    for name, figure in figures.items():
        print("{:22} {:5} {:9.4f} {:7.3f} {:8.2f} {:7.2f} {:7.2f} {:6}".format(name, *figure.values()))


def write(figures: dict[str, Any], curves: dict[str, list[float]]) -> None:
    """Prints the remaining figures and writes all of them to files."""
    for name in ("worst weights and context, percent", "smallest booked, percent", "speed"):
        print(f"{name}: {figures[name]}")
    if "--misses" in sys.argv:
        for miss in figures["misses"]:
            print("\n{family}; {kind}: {off} of {rows} rows, at worst {item}: {reason}.".format(**miss))
            print("Margins {margins_percent} %; the smallest booked is {smallest_booked_percent} %.".format(**miss))
            print(*miss["each"], sep="\n")
    for key in outdated({(miss["family"], miss["kind"]) for miss in figures["misses"]}):
        print(f"no longer missed, but in known_misses.py: {key}")
    file = RESULTS / f"estimate-{datetime.date.today()}.json"
    record(
        file, figures, llama_cpp=f"b{recorded().build}, no_alloc, stand-in CUDA", ollama="PredictServerVRAM at 00f6d620"
    )
    try:
        draw(file.with_suffix(".svg"), curves)
    except ModuleNotFoundError:
        print("No plot: matplotlib is not installed (pip install '.[bench]').")


if __name__ == "__main__":
    main()
