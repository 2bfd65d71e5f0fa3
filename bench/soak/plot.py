"""Plots a soak: requests, the slowest probe of each second, and what the worker holds, over time.

Requires matplotlib (`pip install '.[bench]'`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "0.45"  # distinguishable with colour blindness
LIMIT_MS = 1000


def draw(file: Path, made: dict[str, Any]) -> None:
    """Write the figures of one soak as SVG. Raises ModuleNotFoundError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "soak", "font.size": 9}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    samples, times = made["samples"], [each["at"] for each in made["samples"]]
    _requests(axes[0], samples, times)
    _probes(axes[1], made["probes"])
    _held(axes[2], samples, times)
    _faults(axes[3], made["faults_begun"])
    axes[3].set_xlabel("seconds")
    requests, health = made["requests"], made["health"]
    figure.suptitle(
        f"{made['faults']['injected']} faults of {made['faults']['kinds']} kinds; {requests['sent']} requests; "
        f"/health answered {health['answered_percent']:g} % of {health['probes']} probes",
        fontsize=10,
    )
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _requests(axes: Any, samples: list[dict[str, Any]], times: list[float]) -> None:
    axes.stackplot(
        times,
        [each["answers"] for each in samples],
        [each["errors"] for each in samples],
        labels=("answers", "clear errors"),
        colors=(BLUE, ORANGE),
    )
    axes.set_ylabel("requests in 5 s")
    axes.legend(loc="upper right", frameon=False)


def _probes(axes: Any, seconds: list[dict[str, Any]]) -> None:
    began = seconds[0]["at"] if seconds else 0.0
    times = [each["at"] - began for each in seconds]
    axes.plot(times, [max(0.1, each["slowest_ms"]) for each in seconds], color=BLUE, linewidth=0.8, label="/health")
    axes.plot(
        times, [max(0.1, each["late_ms"]) for each in seconds], color=GREY, linewidth=0.6, label="the prober itself"
    )
    axes.axhline(LIMIT_MS, color=ORANGE, linewidth=0.9, linestyle="--")
    axes.set(yscale="log", ylabel="slowest of a second, ms")
    axes.legend(loc="upper right", frameon=False)


def _held(axes: Any, samples: list[dict[str, Any]], times: list[float]) -> None:
    for name, label, colour in (
        ("rss_mib", "RSS, MiB", BLUE),
        ("fds", "descriptors", ORANGE),
        ("threads", "threads", GREY),
    ):
        axes.plot(times, [each[name] for each in samples], label=label, color=colour, linewidth=1.2)
    axes.set(ylabel="held by the worker", ylim=(0, None))
    axes.legend(loc="upper right", frameon=False)


def _faults(axes: Any, begun: list[tuple[float, str]]) -> None:
    kinds = sorted({kind for _, kind in begun}, reverse=True)
    axes.scatter([at for at, _ in begun], [kinds.index(kind) for _, kind in begun], s=6, color=BLUE)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], fontsize=5)
    axes.grid(axis="y", alpha=0.2)
