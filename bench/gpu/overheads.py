"""Writes the measured overhead into the table that ships with the service: workers/measurement/gpu_overheads.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.results import Row
from bench.gpu.table import overhead_bytes, successful

MIB = 1024**2


def entry(machine: dict[str, Any], rows: Sequence[Row], date: str) -> dict[str, Any] | None:
    """The table entry with the largest overhead after a prompt, rounded up to MiB; None if nothing was measured."""
    seen = [overhead_bytes(row, "shown_prompted") for row in successful(rows)]
    if not seen or max(seen) <= 0:
        return None
    whole = -(-max(seen) // MIB) * MIB
    return {"overhead_bytes": whole, "driver": machine["driver"], "build": machine["llama_cpp"], "measured": date}


def keep(name: str, new: dict[str, Any], file: Path) -> None:
    """Store the entry of this GPU model, unless it is smaller than one of the same driver and build."""
    before = json.loads(file.read_text()) if file.exists() else {}
    old = before.get(name, {})
    is_comparable = (old.get("driver"), old.get("build")) == (new["driver"], new["build"])
    if is_comparable and old["overhead_bytes"] >= new["overhead_bytes"]:
        return
    table = {**before, name: new}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    os.replace(partial, file)
