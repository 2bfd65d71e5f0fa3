"""Plots the runs of a result: waits and loads over the offered load, by machine and trace, as means over the seeds.

Requires matplotlib (`pip install '.[bench]'`).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

COLOURS = {
    "ours": "#0072b2",
    "lru-count": "#e69f00",
    "lru-count-16": "#cc79a7",
    "fifo-swap": "#d55e00",
    "lru-memory": "#009e73",
    "lower-bound": "0.5",
}
PANELS = {"mean_wait_s": "wait, mean, s", "p95_wait_s": "wait, p95, s", "loads_per_1000": "loads per 1,000"}


def draw(file: Path, runs: list[dict[str, Any]]) -> None:
    """Write one line per policy as SVG: a row of panels per machine and figure, a column per trace."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "scheduling", "font.size": 8}
    from matplotlib import pyplot

    machines, traces = (list(dict.fromkeys(run[key] for run in runs)) for key in ("machine", "trace"))
    rows = [(machine, name) for machine in machines for name in PANELS]
    size = (2.6 * len(traces), 2.0 * len(rows))
    figure, panels = pyplot.subplots(len(rows), len(traces), figsize=size, layout="constrained", squeeze=False)
    for (machine, name), line in zip(rows, panels, strict=True):
        for trace, axes in zip(traces, line, strict=True):
            _lines(axes, [run for run in runs if run["machine"] == machine and run["trace"] == trace], name)
            axes.set_title(f"{trace}, {machine}" if name == next(iter(PANELS)) else "")
        line[0].set_ylabel(PANELS[name])
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOURS), frameon=False
    )
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _lines(axes: Any, runs: list[dict[str, Any]], name: str) -> None:
    for policy, colour in COLOURS.items():
        shown = defaultdict(list)
        for run in runs:
            if run["policy"] == policy and run[name] is not None:
                shown[run["load"]].append(run[name])
        if shown:
            style, means = "--" if policy == "lower-bound" else "-", [statistics.fmean(each) for each in shown.values()]
            axes.plot(list(shown), means, style, color=colour, label=policy, marker=".", linewidth=1)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.25)
