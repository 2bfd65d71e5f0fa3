"""Measures what GPU polling adds to the latency of a request for a loaded model.

    python -m bench.latency [--rounds N] [--json FILE]

Three services run side by side, each with the demo model loaded by the embedded engine on the CPU: `off` has GPUs
disabled (gpu.enabled false), `none` finds no GPU, `eight` polls eight GPUs of a fake NVML ten times a second. Each
round sends one request to each. Prints the milliseconds of a one-token chat, and the ratios to `off` within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import requests

from bench.record import record
from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn

GPUS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500, help="requests per service (default: 500)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        hardware = StandIn(Path(folder) / "hardware")
        hardware.show(*(Card(f"GPU-{n}", bus=f"00000000:0{n}:00.0") for n in range(GPUS)))
        kinds = {
            "off": {"GPU__ENABLED": "false"},
            "none": {},
            "eight": {"GPU__POLL_SECONDS": "0.1", "ENGINE__ASSUME_GPU": "true"},
        }
        services = {
            kind: running.enter_context(_serving(Path(folder) / kind, hardware if kind == "eight" else None, variables))
            for kind, variables in kinds.items()
        }
        figures = _figures(_rounds(services, options.rounds))
    for name, figure in figures.items():
        print(name, figure)
    if options.json:
        record(options.json, figures, rounds=options.rounds, gpus=GPUS)


def _serving(
    folder: Path, hardware: StandIn | None, variables: dict[str, str]
) -> contextlib.AbstractContextManager[Service]:
    folder.mkdir()
    plain = hardware.environment if hardware else {}
    return serving(folder, plain=plain, ENGINE__BINARY="embedded", **variables)


def _rounds(services: dict[str, Service], count: int) -> list[dict[str, float]]:
    for kind, service in services.items():
        wait_for(lambda s=service: s.chat(max_tokens=1).status_code == 200, 60)
        seen = services[kind].get("/health").json()["gpu_pool_status"]["total_gpus"]
        assert seen == (GPUS if kind == "eight" else 0), (kind, seen)
    sessions = {kind: requests.Session() for kind in services}
    return [
        {kind: _milliseconds(sessions[kind], services[kind].url) for kind in (*services,)[:: 1 if n % 2 else -1]}
        for n in range(count)
    ]


def _milliseconds(session: requests.Session, url: str) -> float:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
    began = time.perf_counter()
    assert session.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
    return 1000 * (time.perf_counter() - began)


def _figures(rounds: list[dict[str, float]]) -> dict[str, object]:
    kinds = rounds[0].keys()
    figures: dict[str, object] = {kind: _spread([each[kind] for each in rounds]) for kind in sorted(kinds)}
    for kind in sorted(kinds - {"off"}):
        ratios = sorted(each[kind] / each["off"] for each in rounds)
        quarter = len(ratios) // 4
        figures[f"{kind}_to_off"] = {
            "median": round(statistics.median(ratios), 3),
            "quartiles": [round(ratios[quarter], 3), round(ratios[-quarter - 1], 3)],
        }
    return figures


def _spread(values: list[float]) -> dict[str, float]:
    values.sort()
    return {"median_ms": round(statistics.median(values), 3), "p99_ms": round(values[int(0.99 * len(values))], 3)}


if __name__ == "__main__":
    main()
