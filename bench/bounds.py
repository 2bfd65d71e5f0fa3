"""Measures the promised bounds on one machine: start to first answer, disconnect to idle engine, kill to no process.

    python -m bench.bounds [--runs N] [--json FILE]

Runs the real command line, gunicorn, the embedded engine and sockets. Prints minimum, median and maximum of each case.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.record import record, summary
from tests.helpers.service import ENDLESS, Service, has_exited, serving, wait_for

Case = Callable[[Path], float]


def first_answer(folder: Path) -> float:
    """From a warm start (the demo model exists) to the first complete answer: process start, load and four tokens."""
    with serving(folder) as service:
        assert service.chat().status_code == 200
        return time.monotonic() - service.started_at


def gone_in_stream(folder: Path) -> float:
    """From a client's disconnect in mid-stream until the engine stops computing."""
    with serving(folder) as service:
        service.chat()
        connection = service.send_raw({"stream": True, **ENDLESS})
        wait_for(lambda: b"data:" in connection.recv(65536), 10)
        return _until_idle(service, connection)


def gone_without_stream(folder: Path) -> float:
    """From a client's disconnect before a non-streamed answer until the engine stops computing, or has exited."""
    with serving(folder) as service:
        service.chat()
        connection = service.send_raw(ENDLESS)
        wait_for(lambda: sum(s["requests"] for s in service.servers()) == 1, 10)
        time.sleep(0.3)
        return _until_idle(service, connection)


def master_killed(folder: Path) -> float:
    """From SIGKILL of the arbiter, with a stream open, until none of our processes is alive."""
    with serving(folder) as service:
        connection = service.send_raw({"stream": True, **ENDLESS})
        wait_for(lambda: b"data:" in connection.recv(65536), 10)
        family = service.family()
        began = time.monotonic()
        service.master.kill()
        wait_for(lambda: all(has_exited(process) for process in family), 10)
        return time.monotonic() - began


def _until_idle(service: Service, connection: socket.socket) -> float:
    """Seconds from closing the connection to the last sample in which an engine thread had used CPU time."""
    engines = service.engines()
    connection.close()
    closed = last_busy = time.monotonic()
    used = _cpu_ticks(engines)
    while time.monotonic() - last_busy < 0.5:
        time.sleep(0.002)
        now_used = _cpu_ticks(engines)
        if now_used != used:
            used, last_busy = now_used, time.monotonic()
    return last_busy - closed


def _cpu_ticks(engines: list[psutil.Process]) -> int:
    """CPU time of all threads, in units of 2 ms. /proc/PID/task/*/schedstat is finer than the 10 ms of stat."""
    total = 0
    for engine in engines:
        for file in Path(f"/proc/{engine.pid}/task").glob("*/schedstat"):
            try:
                total += int(file.read_text().split()[0])
            except (OSError, IndexError):
                continue
    return total // 2_000_000  # sleeping threads wake for microseconds; 2 ms is work


CASES: dict[str, Case] = {
    "warm_start_to_first_answer_seconds": first_answer,
    "client_gone_in_stream_to_engine_idle_seconds": gone_in_stream,
    "client_gone_without_stream_to_engine_idle_seconds": gone_without_stream,
    "master_killed_to_nothing_alive_seconds": master_killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of each case, interleaved (default: 10)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    seen: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        first_answer(Path(folder))  # writes the demo model
        for _ in range(options.runs):
            for name, case in CASES.items():
                seen[name].append(case(Path(folder)))
    figures = {name: summary(values) for name, values in seen.items()}
    for name, figure in figures.items():
        print(f"{name:52} min {figure['min']:.3f}  median {figure['median']:.3f}  max {figure['max']:.3f}")
    if options.json:
        record(options.json, figures, runs=options.runs)


if __name__ == "__main__":
    main()
