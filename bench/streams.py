"""Counts streams that fail although nothing failed.

    python -m bench.streams [--streams N] [--swapping N] [--quick] [--json] [--record FILE]

Clients send one short stream after another on kept connections: real gunicorn, the embedded engine, the demo model. Two
cases:

    one model       by 2, 6 and 16 clients, N streams each (--streams, default: 10,000)
    three models    by 6 clients, N streams (--swapping, default: 2,000); each asks for one of the models at random, and
                    two of them may be loaded, so that they evict each other

`failed` counts every stream that was not answered with 200 and ended with [DONE], by its status or the code in its last
event: any is a fault, and the exit status is 1. `fds` are open file descriptors of the worker, before the first and
after the last stream; `time_wait` are connections on this machine, in that state after the last stream.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.record import record
from tests.helpers.service import Service, serving, wait_for
from workers.catalog.demo_model import write_demo_model

CLIENTS = (2, 6, 16)
MODELS = ("one", "two", "three")
SWAPPING = {"SCHEDULING__MAX_LOADED": "2", "SCHEDULING__MIN_RESIDENCY_SECONDS": "1"}
TOKENS = 4
TIMEOUT_SECONDS = 300
DONE = b"data: [DONE]\n\n"
TIME_WAIT = "06"  # in /proc/net/tcp


@dataclass(frozen=True)
class Case:
    """`streams` of these models, sent by so many clients."""

    name: str
    models: tuple[str, ...]
    clients: int
    streams: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.streams", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=10_000, help="streams of one model, for each count of clients")
    parser.add_argument("--swapping", type=int, default=2_000, help="streams of three models (default: 2000)")
    parser.add_argument("--quick", action="store_true", help="500 streams of one model and 100 of three: a minute")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    one, three = (500, 100) if options.quick else (options.streams, options.swapping)
    with tempfile.TemporaryDirectory() as folder:
        made = measured(Path(folder), one, three)
    print(json.dumps(made) if options.json else _text(made))
    if options.record:
        record(options.record, made, tokens=TOKENS)
    sys.exit(any(figures["failed"] for figures in made.values()))


def measured(folder: Path, one: int, three: int) -> dict[str, dict[str, Any]]:
    """Figures by case."""
    made = {}
    with serving(folder, ENGINE__BINARY="embedded") as service:
        for clients in CLIENTS:
            case = Case(f"one model, {clients} clients", ("demo",), clients, one)
            made[case.name] = _run(service, case)
    demo = write_demo_model(folder / "written").read_bytes()
    models = folder / "models"
    models.mkdir()
    for name in MODELS:
        (models / f"{name}.gguf").write_bytes(demo)
    with serving(folder, "--models-dir", str(models), ENGINE__BINARY="embedded", **SWAPPING) as service:
        case = Case("three models, 6 clients", MODELS, 6, three)
        made[case.name] = _run(service, case)
    return made


def _run(service: Service, case: Case) -> dict[str, Any]:
    for model in case.models:
        assert service.chat(model, max_tokens=1).status_code == 200
    wait_for(lambda: not any(server["requests"] for server in service.servers()), 20)
    fds, loads, began = service.worker.num_fds(), _loads(service), time.monotonic()
    left = iter(range(case.streams))
    lock = threading.Lock()
    with ThreadPoolExecutor(case.clients) as pool:
        counts = pool.map(functools.partial(_client, service, case, left, lock), range(case.clients))
        results = sum(counts, Counter[str]())
    seconds = time.monotonic() - began
    answered = results.pop("answered", 0)
    return {
        "streams": case.streams,
        "answered": answered,
        "failed": dict(results),
        "loads": _loads(service) - loads,
        "per_second": round(case.streams / seconds, 1),
        "fds": [fds, service.worker.num_fds()],
        "time_wait": Path("/proc/net/tcp").read_text().count(f" {TIME_WAIT} "),
    }


def _loads(service: Service) -> int:
    return sum("spawn server=" in line for line in service.lines)


def _client(service: Service, case: Case, left: Iterator[int], lock: threading.Lock, number: int) -> Counter[str]:
    """Send streams until none are left, on one connection as long as that is kept; outcomes by name."""
    chance, outcomes = random.Random(number), Counter[str]()
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=TIMEOUT_SECONDS)
    while _take(left, lock):
        outcomes[_outcome(connection, chance.choice(case.models))] += 1
    connection.close()
    return outcomes


def _take(left: Iterator[int], lock: threading.Lock) -> bool:
    with lock:
        return next(left, None) is not None


def _outcome(connection: http.client.HTTPConnection, model: str) -> str:
    """Send one stream: "answered", or how it failed."""
    message = {"role": "user", "content": "Hello!"}
    body = {"model": model, "messages": [message], "max_tokens": TOKENS, "stream": True}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__
    if response.status == 200 and data.endswith(DONE):
        return "answered"
    last = data.strip().splitlines()[-1:]
    return f"{response.status} {_code(last[0]) if last else 'empty'}"


def _code(line: bytes) -> str:
    try:
        return str(json.loads(line.removeprefix(b"data: "))["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "cut"


def _text(made: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':26} {'streams':>8} {'answered':>9} {'per s':>7} {'loads':>6} {'fds':>9} {'TIME_WAIT':>10}  failed"]
    for name, row in made.items():
        fds = "{} -> {}".format(*row["fds"])
        numbers = f"{row['streams']:8} {row['answered']:9} {row['per_second']:7} {row['loads']:6} {fds:>9}"
        lines.append(f"{name:26} {numbers} {row['time_wait']:10}  {row['failed'] or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
