"""How near the estimates come to llama.cpp's own figures: python -m bench.estimate [--misses]

Device rows, CUDA's overhead aside. Prints a table, and every family with a row off by more than 2 %; writes
bench/results/estimate-<date>.json.
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
from app.use_cases.estimate import estimate_memory
from app.use_cases.model_shape import ModelShape, model_shape
from bench.record import record
from bench.vram_truth import MIB, Row, header, rows

RESULTS = Path(__file__).with_name("results")
WITHIN = 0.02
TINY_BYTES = 2048  # the truth is printed to a thousandth of a MiB


@cache
def shape_of(shape: str, quant: str) -> ModelShape:
    return model_shape(header(shape, quant))


def kind(row: Row) -> str:
    """What a row is mainly about."""
    options = row.options
    if options.task is not Task.COMPLETION:
        return "embedding, rerank"
    if options.n_gpu_layers <= shape_of(row.shape, row.quant).hparams.n_layer_all:
        return "partial offload"
    if options.flash_attn == "off":
        return "no flash attention"
    if len(row.devices) > 1:
        return "several GPUs"
    return "one GPU, quantized KV" if options.cache_type_k != "f16" else "one GPU"


def errors(row: Row) -> list[dict[str, Any]]:
    """Of each device: the errors of weights and context, and of the total, relative to the truth."""
    estimate = estimate_memory(shape_of(row.shape, row.quant), row.options)
    found = []
    for device, (weights, context, compute) in zip(estimate.devices, row.devices, strict=True):
        ours = device.weights_bytes + device.context_bytes + device.compute_bytes
        total = weights + context + compute
        found.append(
            {
                "weights": _relative(device.weights_bytes, weights),
                "context": _relative(device.context_bytes, context),
                "compute": _relative(device.compute_bytes, compute),
                "total": _relative(ours, total),
                "booked": _relative(ours + device.margin_bytes, total),
            }
        )
    return found


def _relative(ours: float, truth: float) -> float:
    return 0.0 if abs(ours - truth) <= TINY_BYTES else (ours - truth) / max(truth, TINY_BYTES)


def account(values: list[float]) -> dict[str, float]:
    """Of relative errors: how large they are, and how many are within 2 %."""
    sizes = sorted(abs(each) for each in values)
    return {
        "rows": len(sizes),
        "median_percent": round(100 * statistics.median(sizes), 4),
        "p90_percent": round(100 * sizes[int(0.9 * len(sizes))], 3),
        "max_percent": round(100 * sizes[-1], 2),
        "within_2_percent": round(100 * sum(each <= WITHIN for each in sizes) / len(sizes), 2),
        "under_by_more_than_2_percent": sum(each < -WITHIN for each in values),
    }


def speed() -> dict[str, float]:
    """Microseconds of one estimate, of the largest model on four GPUs."""
    row = next(each for each in rows() if each.shape == "llama-3.1-70b" and each.options.devices == 4)
    shape, times = shape_of(row.shape, row.quant), []
    for _ in range(500):
        begin = time.perf_counter()
        estimate_memory(shape, row.options)
        times.append(1e6 * (time.perf_counter() - begin))
    return {"median_us": round(statistics.median(times), 1), "max_us": round(max(times), 1)}


def main() -> None:
    by_kind, by_set, by_family = defaultdict(list), defaultdict(list), defaultdict(list)
    items: dict[str, float] = defaultdict(float)
    for row in rows():
        for each in errors(row):
            by_kind[kind(row)].append(each["total"])
            by_set[row.set].append(each["total"])
            by_family[shape_of(row.shape, row.quant).hparams.architecture, kind(row)].append((each["total"], row))
            for item in ("weights", "context"):
                items[item] = max(items[item], abs(each[item]))
    everything = [each for values in by_set.values() for each in values]
    table = {**by_set, **by_kind, "all": everything}
    figures: dict[str, Any] = {name: account(values) for name, values in table.items()}
    print(f"{'':22} {'rows':>5} {'median %':>9} {'p90 %':>7} {'max %':>8} {'within 2 %':>10} {'under':>6}")
    for name, figure in figures.items():
        print("{:22} {:5} {:9.4f} {:7.3f} {:8.2f} {:10.2f} {:6}".format(name, *figure.values()))
    figures["worst weights and context, percent"] = {name: round(100 * worst, 4) for name, worst in items.items()}
    figures["misses"] = misses(by_family)
    figures["speed"] = speed()
    print(figures["worst weights and context, percent"], figures["speed"])
    if "--misses" in sys.argv:
        for miss in figures["misses"]:
            print(miss)
    record(RESULTS / f"estimate-{datetime.date.today()}.json", figures, llama_cpp="b11434, no_alloc, stand-in CUDA")


def misses(by_family: dict[Any, Any]) -> list[dict[str, Any]]:
    """The families with rows off by more than 2 %, the worst of each as an example."""
    found = []
    for (family, kind_), each in by_family.items():
        off = [(error, row) for error, row in each if abs(error) > WITHIN]
        if off:
            worst, row = max(off, key=lambda pair: abs(pair[0]))
            example = {"shape": row.shape, "devices": row.options.devices, "args": row.args}
            mib = round(sum(sum(device) for device in row.devices) / MIB)
            found.append(
                {"family": family, "kind": kind_, "rows": len(each), "off": len(off)}
                | {"worst_percent": round(100 * worst, 1), "mib": mib, "example": example}
            )
    return sorted(found, key=lambda miss: -abs(miss["worst_percent"]))


if __name__ == "__main__":
    main()
