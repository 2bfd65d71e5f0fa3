"""Summarizes measurements and records them together with the machine they were made on. Shared by all benches."""

from __future__ import annotations

import json
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, to four significant digits."""
    figures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def record(file: Path, figures: dict[str, Any], **about: Any) -> None:
    """Write the figures as JSON, with the machine and the run's parameters (`about`)."""
    machine = {
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "engine": f"xllamacpp {metadata.version('xllamacpp')}",
    }
    file.write_text(json.dumps({"machine": machine | about, "figures": figures}, indent=2) + "\n")
