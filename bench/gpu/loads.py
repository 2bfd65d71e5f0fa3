"""How long the loads of one model take in each mode, cold and warm, beside the disk's own rate: llama-server alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.entities.launch import EngineFacts, LaunchSettings, LoadMode
from app.entities.model import Model
from app.use_cases.launch.load_mode import offered_modes
from bench.cold_files import COLD, WARM, NotAsWanted, bring_to, disk_seconds
from bench.gpu.grid import Start
from bench.gpu.llama_server import MeasuredServer, StartFailed
from workers.engine_builds.stopping import Deadline

ROUNDS = 3
MODES = (LoadMode.MMAP, LoadMode.READ, LoadMode.DIRECT)
START = Start(4096)


def load_rows(path: Path, engine: EngineFacts, gpu: str | None, logs: Path, deadline: Deadline) -> list[dict[str, Any]]:
    """One for each load, in the order in which they were made, which differs from round to round. Raises OutOfTime."""
    modes = [mode for mode in MODES if mode in offered_modes(engine)]
    cases = list(itertools.product((COLD, WARM), modes))
    rows: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        rows.append({"round": number, "file": "disk", "seconds": _of_disk(path)})
        for temperature, mode in cases[:: 1 if number % 2 else -1]:
            deadline.check()
            model = _model(path, START.launch(gpu is not None), mode)
            row = {"round": number, "file": temperature, "mode": str(mode)}
            rows.append(row | _of_load(model, engine, gpu, temperature, logs, deadline))
    return rows


def _of_disk(path: Path) -> float | None:
    try:
        return round(disk_seconds(path), 2)
    except NotAsWanted:  # a file in /dev/shm
        return None


def _of_load(
    model: Model, engine: EngineFacts, gpu: str | None, temperature: str, logs: Path, deadline: Deadline
) -> dict[str, Any]:
    path = Path(model.path)
    try:
        bring_to(path, temperature)
        with MeasuredServer(model, engine, gpu, logs / f"{path.stem} load.log", deadline) as server:
            return {"seconds": round(server.load_seconds, 2), "mib": model.size_bytes >> 20}
    except (NotAsWanted, StartFailed) as error:
        return {"error": str(error).replace(str(path), path.name)[:300]}


def _model(path: Path, launch: LaunchSettings, mode: LoadMode) -> Model:
    status, options = path.stat(), replace(launch.options, load_mode=mode)
    return Model("measured", str(path), status.st_size, int(status.st_mtime), replace(launch, options=options))
