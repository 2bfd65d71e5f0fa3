"""Small charts of the last ten minutes, drawn as an SVG path. The same as templates/static/charts.js."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

POINTS, HEIGHT = 120, 28  # of the view box, which is a point less wide
TOP = 1.5  # free above the highest value, so that a line is not cut


def chart(name: str, now: str, values: Sequence[float | None], highest: float | None) -> dict[str, Any]:
    """`values`: oldest first, the last is now; None where one is unknown. `highest`: the top of the
    scale; None: the highest value."""
    known = [value for value in values if value is not None]
    scale = highest or max(known, default=0) or 1
    return {"key": name, "chart": name, "now": now, "line": line_path(values, scale), "area": area_path(values, scale)}


def line_path(values: Sequence[float | None], highest: float) -> str:
    """A line for each run of known values."""
    return "".join("M" + "L".join(points) + "h.01" * (len(points) == 1) for points in _runs(values, highest))


def area_path(values: Sequence[float | None], highest: float) -> str:
    """The same, closed along the bottom."""
    return "".join(
        f"M{points[0].partition(',')[0]},{HEIGHT}L{'L'.join(points)}V{HEIGHT}Z" for points in _runs(values, highest)
    )


def _runs(values: Sequence[float | None], highest: float) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    for x, value in enumerate(values, POINTS - len(values)):
        if value is None:
            runs.append([])
        else:
            y = HEIGHT - (HEIGHT - TOP) * min(1.0, value / highest)
            runs[-1].append(f"{x},{y:.1f}")
    return [run for run in runs if run]
