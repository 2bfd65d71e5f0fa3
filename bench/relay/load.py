"""Puts load on a system; measures the answers and their cost."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from bench.relay.cases import PROBES_PER_SECOND, Case, Times
from bench.relay.systems import MODELS, Running
from bench.relay.usage import cpu_seconds, memory_mib

SCRIPT = Path(__file__).with_name("small.lua")
BURST_CONNECTIONS, BURST_SECONDS, BURST_RATE, BURST_TOKENS = 2000, 20, 10, 20
HEALTH_EVERY_SECONDS, HEALTH_SECONDS = 0.02, 20.0

Figures = dict[str, Any]


class Streams:
    """A run of streams.c, followed phase by phase."""

    def __init__(self, program: Path, port: int, servers: int, *numbers: float) -> None:
        command = [str(program), str(port), ",".join(MODELS[:servers]), *(f"{number:g}" for number in numbers)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_for_phase(self, phase: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == f"phase {phase}\n":
                return
        raise AssertionError(f"the streams ended before {phase}")

    def result(self) -> Figures:
        """The figures it prints at its end."""
        rest, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, "the generator of streams failed"
        made: Figures = json.loads(rest.splitlines()[-1])
        return made


def streams(program: Path, system: Running, case: Case, times: Times, idle_mib: float) -> Figures:
    """Figures of one case of streams: token latency, first tokens, CPU, memory and, for our service, /health."""
    endless = case.rate * int(times.ramp + times.window + times.probing + times.hold + 60)
    run = Streams(
        *(program, system.port, case.servers, case.streams, case.rate, endless),
        *(times.ramp, times.window, times.probing, times.hold, PROBES_PER_SECOND),
    )
    run.wait_for_phase("window")
    before = cpu_seconds(system.processes())
    run.wait_for_phase("probing")
    used = cpu_seconds(system.processes()) - before
    run.wait_for_phase("hold")
    mib = memory_mib(system.processes()) - idle_mib
    health = health_ms(system, times.hold - 0.3) if system.service else []
    seen = run.result()
    measures = bool(system.processes())
    return {
        "tokens_per_s": seen["tokens"] / seen["seconds"],
        "p50_ms": seen["latency_ms"].get("p50"),
        "p99_ms": seen["latency_ms"].get("p99"),
        "ttft_p50_ms": seen["probe_first_token_ms"].get("p50"),
        "ttft_p99_ms": seen["probe_first_token_ms"].get("p99"),
        "cpu_us_per_token": _us_each(used, seen["tokens"]) if measures else None,
        "mb_per_100_streams": mib * 100 / case.streams if measures else None,
        "failed": failures(seen),
        "health_ms": health,
    }


def failures(seen: Figures) -> int:
    """Number of streams without an answer, and of streams and probes with another status than 200 or cut off."""
    counts = (seen["streams"], seen["probes"])
    unanswered = seen["streams"]["opened"] - sum(seen["streams"]["statuses"].values())
    bad = sum(count for each in counts for status, count in each["statuses"].items() if status != "200")
    return bad + unanswered + sum(each["cut"] for each in counts)


def small(system: Running, seconds: float, clients: int) -> Figures:
    """Figures of small answers, requested by `clients` concurrent clients, each on a persistent connection."""
    before = cpu_seconds(system.processes())
    command = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{max(1, round(seconds))}s",
        "-s",
        str(SCRIPT),
        f"http://127.0.0.1:{system.port}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used = cpu_seconds(system.processes()) - before
    seen: Figures = json.loads(done.stdout.splitlines()[-1])
    return {
        "requests_per_s": seen["requests"] / seen["seconds"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "cpu_us": _us_each(used, seen["requests"]) if system.processes() else None,
        "failed": seen["failed"],
    }


def _us_each(seconds: float, count: int) -> float | None:
    return seconds * 1e6 / count if count else None


def burst(program: Path, system: Running) -> Figures:
    """2,000 simultaneous requests for the 256 slots of one server: counts of statuses and of missing answers."""
    began = time.monotonic()
    numbers = (BURST_CONNECTIONS, BURST_RATE, BURST_TOKENS, 0, BURST_SECONDS, 0, 0, 0)
    run = Streams(program, system.port, 1, *numbers)
    seen, health = beside(run.result, system) if system.service else (run.result(), [])
    answered = sum(seen["streams"]["statuses"].values())
    return {
        "connections": BURST_CONNECTIONS,
        "statuses": seen["streams"]["statuses"],
        "unanswered": BURST_CONNECTIONS - answered,
        "seconds": time.monotonic() - began,
        "health_ms": health,
    }


def beside(work: Callable[[], Figures], system: Running) -> tuple[Figures, list[float]]:
    """The result of `work`, and the milliseconds that /health took while it ran."""
    over, seen = threading.Event(), []

    def ask() -> None:
        while not over.is_set():
            seen.extend(health_ms(system, 0.1))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return work(), seen
    finally:
        over.set()
        asking.join()


def health_ms(system: Running, seconds: float) -> list[float]:
    """Milliseconds of repeated GET /health on a persistent connection for `seconds`; a failure counts as 20 s."""
    made: list[float] = []
    with requests.Session() as session:
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            try:
                session.get(f"http://127.0.0.1:{system.port}/health", timeout=HEALTH_SECONDS).raise_for_status()
                made.append(1000 * (time.monotonic() - began))
            except requests.RequestException:
                made.append(1000 * HEALTH_SECONDS)
            time.sleep(HEALTH_EVERY_SECONDS)
    return made
