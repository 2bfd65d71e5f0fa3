"""The results as text."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]
WAITS = ("mean_wait_s", "p50_wait_s", "p95_wait_s", "p99_wait_s", "max_wait_s")
SHOWN = ("bound", "measured", "at_most", "holds")


def table(made: dict[str, Any]) -> str:
    """One line per run, then one per closed loop, cause, setting and bound."""
    lines = [*_runs(made["runs"])]
    for part in ("closed_loops", "configured", "causes"):
        lines += ["", *_plain(made.get(part, []))]
    return "\n".join([*lines, "", *map(_bound, made["verdict"])])


def _runs(runs: Rows) -> list[str]:
    lines = [
        "trace       machine               load  seed  policy        loads/1000    mean     p50     p95     p99     max"
    ]
    for run in runs:
        waits = " ".join("      -" if run[key] is None else f"{run[key]:7.1f}" for key in WAITS)
        head = f"{run['trace']:11} {run['machine']:20} {run['load']:5}  {run['seed']:4}  {run['policy']:12}"
        lines.append(f"{head} {run['loads_per_1000']:11.1f} {waits}")
    return lines


def _plain(rows: Rows) -> list[str]:
    """Columns as wide as they must be."""
    if not rows:
        return []
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _bound(row: dict[str, Any]) -> str:
    holds = "      " if row["at_most"] is None else "holds " if row["holds"] else "FAILS "
    more = "".join(f", {key.replace('_', ' ')} {value}" for key, value in row.items() if key not in SHOWN)
    return f"{holds}{row['bound']}: {row['measured']}{more}"
