"""Writes what was measured into the table that the service begins with: workers/gpu_overheads.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.results import Row
from bench.gpu.table import good, overhead_bytes

MIB = 1024**2


def entry(machine: dict[str, Any], rows: Sequence[Row], date: str) -> dict[str, Any] | None:
    """The largest overhead that was seen after a prompt, in whole MiB; None if nothing was measured."""
    seen = [overhead_bytes(row, "shown_prompted") for row in good(rows)]
    if not seen or max(seen) <= 0:
        return None
    whole = -(-max(seen) // MIB) * MIB
    return {"overhead_bytes": whole, "driver": machine["driver"], "build": machine["llama_cpp"], "measured": date}


def keep(name: str, said: dict[str, Any], file: Path) -> None:
    """Put the entry of this GPU model into the table. A smaller figure of the same driver and build changes nothing."""
    before = json.loads(file.read_text()) if file.exists() else {}
    there = before.get(name, {})
    is_alike = (there.get("driver"), there.get("build")) == (said["driver"], said["build"])
    if is_alike and there["overhead_bytes"] >= said["overhead_bytes"]:
        return
    table = {**before, name: said}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    os.replace(partial, file)
