"""Measures how fast a model is loaded, in each mode, through the service and by llama-server alone.

    python -m bench.load [--model FILE] [--rounds N] [--server PATH] [--folder DIR] [--json] [--record FILE]

Without a model, one of 1.9 GiB with random weights is written. Each round reads the file from the disk once, as the
disk's own sequential rate, then loads it cold and warm in each mode: by the engine alone, from the start of its process
until it answers one token, and by a service, from the request for an unloaded model until the same. Cold: the file was
dropped from the page cache (posix_fadvise DONTNEED), which is checked. The order changes from round to round; compare
within one run only. On a machine with a GPU both use it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from app.entities.launch import EngineFacts, LoadMode
from app.use_cases.launch.command_line import KEY_VARIABLE
from app.use_cases.launch.load_mode import load_mode_arguments, offered_modes
from bench.cold_files import COLD, WARM, bring_to, disk_seconds
from bench.gpu.model_file import is_written, write_model
from bench.gpu.shapes import Shape
from bench.record import record, summary
from tests.helpers.service import Service, serving, wait_for
from workers.engine.binary import find_engine
from workers.engine_builds.stopping import Deadline
from workers.server.child_process import free_port

SHAPE = Shape("llama-3.1-8b", "Q8_0", layers=4)
MIB = 1024**2
MODES = (LoadMode.MMAP, LoadMode.READ, LoadMode.DIRECT)
PROMPT = {"prompt": "Hello", "max_tokens": 1, "n_predict": 1}
ARGUMENTS = ("--ctx-size", "512", "--parallel", "1", "--threads", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a file of 1 GiB or more (default: one is written)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="embedded", help="a llama-server (default: the embedded engine)")
    parser.add_argument("--folder", type=Path, help="where the model is written (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--record", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or written_model(options.folder or Path(folder))
        figures = measured(model, find_engine(options.server), options.server, options.rounds, Path(folder))
    size = round(model.stat().st_size / MIB) if model.exists() else None
    print(json.dumps(figures, indent=2) if options.json else "\n".join(f"{n} {f}" for n, f in figures.items()))
    if options.record:
        record(options.record, figures, rounds=options.rounds, shape=None if options.model else SHAPE.label, mib=size)


def written_model(folder: Path) -> Path:
    path = folder / SHAPE.file_name
    if not is_written(SHAPE, path):
        write_model(SHAPE, path, Deadline(600.0))
    return path


def measured(model: Path, engine: EngineFacts, binary: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of each way, mode and temperature, and the ratios within each round."""
    modes = [mode for mode in MODES if mode in offered_modes(engine)]
    cases = list(itertools.product((COLD, WARM), modes, ("alone", "ours")))
    seconds: dict[str, list[float]] = {"disk": []} | {" ".join(case): [] for case in cases}
    with a_service(model, binary, modes, folder) as service:
        for number in range(rounds):
            seconds["disk"].append(disk_seconds(model))
            for temperature, mode, way in cases[:: 1 if number % 2 else -1]:
                bring_to(model, temperature)
                took = alone_seconds(model, engine, mode) if way == "alone" else our_seconds(service, mode)
                seconds[f"{temperature} {mode} {way}"].append(took)
                print(f"round {number + 1}: {temperature} {mode} {way}: {took:.2f} s", file=sys.stderr)
    return figures_of(seconds, model.stat().st_size)


def figures_of(seconds: dict[str, list[float]], size: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: {"seconds": summary(values), "mib_per_second": round(size / MIB / statistics.median(values))}
        for name, values in seconds.items()
    }
    for name in [each for each in seconds if each.endswith(" ours")]:
        alone = seconds[name.removesuffix("ours") + "alone"]
        figures[f"{name} to alone"] = summary([a / b for a, b in zip(seconds[name], alone, strict=True)])
        if name.startswith("cold"):
            figures[f"{name} to disk"] = summary([a / b for a, b in zip(seconds[name], seconds["disk"], strict=True)])
    return figures


def alone_seconds(model: Path, engine: EngineFacts, mode: LoadMode) -> float:
    port, key = free_port(), secrets.token_urlsafe(16)
    own = ("--model", str(model), "--host", "127.0.0.1", "--port", str(port), *load_mode_arguments(mode, engine))
    began = time.perf_counter()
    process = subprocess.Popen(
        [*engine.command, *ARGUMENTS, *own],
        env={**os.environ, KEY_VARIABLE: key},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: is_up(port), 300)
        headers = {"Authorization": f"Bearer {key}"}
        answer = requests.post(f"http://127.0.0.1:{port}/completion", json=PROMPT, headers=headers, timeout=300)
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def is_up(port: int) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
    return False


@contextlib.contextmanager
def a_service(model: Path, binary: str, modes: list[LoadMode], folder: Path) -> Iterator[Service]:
    """Each mode is a model of its own, of the same file."""
    entries = {
        str(mode): {
            "path": str(model),
            "load_mode": str(mode),
            "ctx_size": 512,
            "parallel": 1,
            "args": ["--threads", "1"],
        }
        for mode in modes
    }
    with serving(folder, plain={}, ENGINE__BINARY=binary, MODELS=json.dumps(entries)) as service:
        yield service


def our_seconds(service: Service, mode: LoadMode) -> float:
    """Of a request for a model that is not loaded; it is unloaded afterwards."""
    body = {"model": str(mode), **PROMPT}
    began = time.perf_counter()
    answer = service.post("/v1/completions", body)
    took = time.perf_counter() - began
    assert answer.status_code == 200, answer.text
    service.post("/models/unload", {"model": str(mode)})
    wait_for(lambda: not service.servers(), 60)
    return took


if __name__ == "__main__":
    main()
