"""What every bench does alike: sum up what was measured, and write it down beside what it was measured on."""

from __future__ import annotations

import json
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, to four digits."""
    made = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in made.items()}


def record(file: Path, figures: dict[str, Any], **about: Any) -> None:
    """Write the figures, and what else should be known about the run, as JSON."""
    machine = {
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "engine": f"xllamacpp {metadata.version('xllamacpp')}",
    }
    file.write_text(json.dumps({"machine": machine | about, "figures": figures}, indent=2) + "\n")
