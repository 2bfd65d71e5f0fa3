"""Plots the streams of a result: token latency, CPU per token and time to first token, by system and case.

Requires matplotlib (`pip install '.[bench]'`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"ours": "#0072b2", "nginx": "#009e73", "naive": "#d55e00", "direct": "0.6", "litellm": "#cc79a7"}
PANELS = {
    "p99_ms": ("token latency, p99, ms", "log"),
    "cpu_us_per_token": ("CPU, µs per token", "linear"),
    "ttft_p99_ms": ("time to first token, p99, ms", "log"),
}


def draw(file: Path, made: dict[str, Any]) -> None:
    """Write a bar chart with the range of the rounds as SVG. Raises ModuleNotFoundError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "relay", "font.size": 10}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(12, 4.2), layout="constrained")
    for axes, (name, (title, scale)) in zip(panels, PANELS.items(), strict=True):
        _bars(axes, made["streams"], name)
        axes.set(title=title, yscale=scale)
        axes.grid(alpha=0.25, axis="y")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOURS), frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    """One group per case with one bar per system; unmeasured systems leave a gap."""
    cases = sorted({(row["streams"], row["rate"]) for row in rows})
    systems = [each for each in COLOURS if any(row["system"] == each for row in rows)]
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        shown = [row for row in rows if row["system"] == system and row[name] is not None]
        places = [cases.index((row["streams"], row["rate"])) + (number + 0.5) * width - 0.4 for row in shown]
        heights = [row[name] for row in shown]
        below = [row[name] - row["spread"][name][0] for row in shown]
        above = [row["spread"][name][1] - row[name] for row in shown]
        bars = axes.bar(places, heights, width, color=COLOURS[system], label=system)
        axes.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor="0.2", linewidth=1)
        axes.bar_label(
            bars, [f"{height:.0f}" if height >= 100 else f"{height:.2g}" for height in heights], fontsize=7, padding=2
        )
    axes.set_xticks(range(len(cases)), [f"{streams} x {rate}" for streams, rate in cases])
    axes.set_xlabel("streams x tokens/s each")
