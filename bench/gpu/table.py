"""The results as figures and as a Markdown table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from bench.gpu.kind import Kind
from bench.gpu.results import Row

MIB = 1024**2
LARGE_BYTES = 5 * 1024**3  # the goals apply to models above this size
FIRST_SIGHT, LEARNED = 0.02, 0.01  # allowed relative errors of totals
RESERVE_BYTES = 512 * MIB  # kept free on every GPU: no estimate may be too low by more
ITEMS = ("weights", "context", "compute")


def successful(rows: Sequence[Row]) -> list[Row]:
    """Rows whose start did not fail."""
    return [row for row in rows if "error" not in row]


def error(ours: float, truth: float) -> float:
    """Relative error; 0 if both differ by less than 0.01 MiB."""
    return 0.0 if abs(ours - truth) < 0.01 * MIB else (ours - truth) / max(truth, 0.01 * MIB)


def items(memory: dict[str, int]) -> int:
    return sum(memory[item] for item in ITEMS)


def item_error(row: Row, item: str) -> float:
    """Relative error of the estimate against llama-server's buffers."""
    return error(row["estimated"][item], row["loaded"][item])


def overhead_bytes(row: Row, moment: str) -> int:
    """Memory of the process beyond its buffers. `moment`: shown_loaded or shown_prompted."""
    return int(row[moment]["bytes"]) - items(row["loaded"])


def first_sight(row: Row) -> float:
    """Relative error of estimate plus assumed overhead against the card's figure after a prompt."""
    return error(items(row["estimated"]) + row["estimated"]["overhead"], row["shown_prompted"]["bytes"])


def learned(row: Row) -> float:
    """Relative error of the remembered figure (after the load) against the one after a prompt."""
    return error(row["shown_loaded"]["bytes"], row["shown_prompted"]["bytes"])


def under_bytes(row: Row) -> int:
    """Memory used beyond the booked amount; negative if less is used."""
    booked = items(row["estimated"]) + row["estimated"]["overhead"] + row["estimated"]["margin"]
    return int(row["shown_prompted"]["bytes"]) - booked


def summary(kind: Kind, rows: Sequence[Row], bare_context_bytes: int | None = None) -> dict[str, Any]:
    """The figures of the results, and whether the goals are met."""
    whole = successful(rows)
    figures: dict[str, Any] = {"rows": len(whole), "failed": sorted(row["key"] for row in rows if row not in whole)}
    for item in ITEMS:
        figures[f"{item}_percent"] = _account([item_error(row, item) for row in whole])
    totals = [error(items(row["estimated"]), items(row["loaded"])) for row in whole]
    figures["items_together_percent"] = _account(totals)
    return figures | (_of_gpu(whole, bare_context_bytes) if kind is Kind.GPU else {})


def _of_gpu(rows: list[Row], bare_context_bytes: int | None) -> dict[str, Any]:
    large = [row for row in rows if row["shown_prompted"]["bytes"] > LARGE_BYTES and _is_usual(row)]
    usual = [row for row in rows if _is_usual(row)]
    cold = [overhead_bytes(row, "shown_loaded") for row in rows if not _is_usual(row)]
    return {
        "first_sight_above_5_gib_percent": _account([first_sight(row) for row in large]),
        "learned_above_5_gib_percent": _account([learned(row) for row in large]),
        "most_under_mib": _mib(max(map(under_bytes, usual), default=0)),
        "overhead_mib": {
            "bare_context": _mib(bare_context_bytes),
            "without_warm_up": _range(cold),
            "loaded": _range([overhead_bytes(row, "shown_loaded") for row in usual]),
            "prompted": _range([overhead_bytes(row, "shown_prompted") for row in usual]),
        },
        "meets": {
            "within 2 % at first sight, above 5 GiB": _all(large, lambda row: abs(first_sight(row)) <= FIRST_SIGHT),
            "within 1 % once learned, above 5 GiB": _all(large, lambda row: abs(learned(row)) <= LEARNED),
            "never under by more than the reserve": _all(usual, lambda row: under_bytes(row) <= RESERVE_BYTES),
        },
    }


def _is_usual(row: Row) -> bool:
    return "no warm-up" not in row["start"]


def _all(rows: list[Row], is_met: Callable[[Row], bool]) -> bool | None:
    """Whether all rows meet it; None without rows."""
    return all(map(is_met, rows)) if rows else None


def _account(errors: list[float]) -> dict[str, float]:
    if not errors:
        return {"rows": 0}
    sizes = [abs(100 * each) for each in errors]
    return {
        "rows": len(errors),
        "median": round(statistics.median(sizes), 3),
        "max": round(max(sizes), 3),
        "lowest": round(100 * min(errors), 3),
    }


def _range(sizes: list[int]) -> list[float | None]:
    """Minimum, median and maximum in MiB."""
    return [_mib(each) for each in (min(sizes), statistics.median_high(sizes), max(sizes))] if sizes else []


def _mib(size: float | None) -> float | None:
    return None if size is None else round(size / MIB, 1)


def table(kind: Kind, machine: dict[str, Any], rows: Sequence[Row], figures: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {_title(kind, machine)}", "", _about(kind), ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "## Summary", "", *_short(figures), "", "## Every start", "", *_rows(kind, successful(rows))]
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "## Failed", "", *(f"- {row['key']}: {row['error'].splitlines()[0]}" for row in failed)]
    return "\n".join(lines) + "\n"


def _title(kind: Kind, machine: dict[str, Any]) -> str:
    return f"Memory of llama-servers on {machine['gpu']}" if kind is Kind.GPU else "Rehearsal on a CPU: no GPU was used"


def _about(kind: Kind) -> str:
    return _ABOUT_GPU if kind is Kind.GPU else _ABOUT_REHEARSAL


_ABOUT_GPU = """\
Sizes are in MiB. Errors of items compare our estimate with the buffers that llama-server reports. Overhead is the
memory that NVML reports for the process beyond its buffers. `first sight` compares the estimate and the assumed
overhead with the memory after the prompt; `learned` compares the memory after the load, which the service remembers,
with the same. `by`: `process` is NVML's figure for the process; `card` is the growth of the whole card, where NVML does
not list the process."""
_ABOUT_REHEARSAL = """\
Sizes are in MiB. This run shows that the kit works, and compares the items of the estimate with llama-server's buffers
in RAM (its output buffer counts as compute). It says nothing about a GPU: no overhead, no total. `resident`: resident
pages of the process, including the touched pages of the model file."""


def _short(figures: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in figures.items():
        if name == "meets":
            answers = {True: "yes", False: "NO", None: "not measured"}
            lines += [f"- goal: {goal}: {answers[met]}" for goal, met in value.items()]
        elif name != "failed" or value:
            text = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
            lines.append(f"- {name.replace('_', ' ')}: {text}")
    return lines


_GPU_COLUMNS: dict[str, Callable[[Row], str]] = {
    "shown loaded": lambda row: _size(row["shown_loaded"]["bytes"]),
    "shown prompted": lambda row: _size(row["shown_prompted"]["bytes"]),
    "by": lambda row: str(row["shown_prompted"]["by"]),
    "overhead loaded": lambda row: _size(overhead_bytes(row, "shown_loaded")),
    "overhead prompted": lambda row: _size(overhead_bytes(row, "shown_prompted")),
    "first sight %": lambda row: _percent(first_sight(row)),
    "learned %": lambda row: _percent(learned(row)),
}
_CPU_COLUMNS: dict[str, Callable[[Row], str]] = {
    "resident loaded": lambda row: _size(row["shown_loaded"]["bytes"]),
    "resident prompted": lambda row: _size(row["shown_prompted"]["bytes"]),
}


def _rows(kind: Kind, rows: list[Row]) -> list[str]:
    columns: dict[str, Callable[[Row], str]] = {
        "model": lambda row: row["model"],
        "start": lambda row: row["start"],
        "estimated": lambda row: _size(items(row["estimated"])),
        "buffers": lambda row: _size(items(row["loaded"])),
        **{f"{item} %": (lambda row, item=item: _percent(item_error(row, item))) for item in ITEMS},
        **(_GPU_COLUMNS if kind is Kind.GPU else _CPU_COLUMNS),
        "prompt": lambda row: str(row["prompt_tokens"]),
        "load s": lambda row: f"{row['load_seconds']:.1f}",
        "prompt s": lambda row: f"{row['prompt_seconds']:.1f}",
    }
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return head + ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]


def _size(size: float) -> str:
    return f"{size / MIB:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:+.2f}"
