"""Plots relative errors: one curve per estimator, its rows sorted from the smallest error to the largest.

Requires matplotlib (`pip install '.[bench]'`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

POINTS = 200  # per curve
FLOOR_PERCENT = 1e-4  # a logarithmic axis cannot show an error of 0
LINES_PERCENT = (2, 10)
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # distinguishable with colour blindness


def draw(file: Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Write the curves of relative errors as SVG. Raises ModuleNotFoundError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "estimate", "font.size": 11}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 5.2), layout="constrained")
    for (name, errors), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(*_curve(errors), label=name, color=colour, linewidth=2)
    for percent in LINES_PERCENT:
        axes.axhline(percent, color="0.35", linewidth=0.9, linestyle="--")
        axes.annotate(f"{percent} %", (91, percent), xytext=(0, 3), textcoords="offset points", color="0.35")
    axes.set(yscale="log", ylim=(FLOOR_PERCENT * 0.8, None), xlim=(0, 100))
    axes.set(xlabel="rows with at most this error, %", ylabel="|error| of the GPU's memory, % of llama.cpp's figure")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(
        f"One GPU, whole model: {len(next(iter(curves.values())))} rows, without the fixed overhead", fontsize=11
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _curve(errors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Two lists: shares of the rows in percent, and the largest error within each share in percent."""
    sizes = sorted(abs(each) for each in errors)
    shares = [each / POINTS for each in range(1, POINTS + 1)]
    largest = [sizes[max(0, round(share * len(sizes)) - 1)] for share in shares]
    return [100 * share for share in shares], [max(100 * each, FLOOR_PERCENT) for each in largest]
