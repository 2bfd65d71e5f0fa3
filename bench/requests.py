"""Measures how quickly invalid requests are rejected.

    python -m bench.requests [--rounds N] [--json FILE]

Sends every case of tests/service/test_bad_requests.py once per round, each on its own connection, to an idle service
and to one that serves four streams. GET /livez between them is the baseline of the machine. Goal: 99 % of rejections
within 10 ms. The chunked body of 300 MB is reported separately: it must be sent before it can be too large.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench.record import record
from tests.helpers.service import ENDLESS, Service, serving
from tests.service.test_bad_requests import CASES, MIB, answer_to, chunked, plain

GOAL_MS = 10.0
LIVEZ = plain("GET", "/livez")


def milliseconds(service: Service, request: object) -> float:
    began = time.perf_counter()
    answer_to(service, request)  # type: ignore[arg-type]
    return (time.perf_counter() - began) * 1000


def rounds(service: Service, count: int) -> dict[str, list[float]]:
    """Milliseconds by case, and of /livez after each case."""
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(count):
        for case in CASES:
            seen[case.name].append(milliseconds(service, case.request))
            seen["/livez"].append(milliseconds(service, LIVEZ))
    return seen


def figures(seen: dict[str, list[float]]) -> dict[str, object]:
    livez = seen.pop("/livez")
    every = [value for values in seen.values() for value in values]
    slowest = sorted(seen, key=lambda name: -statistics.median(seen[name]))[:5]
    return {
        "refusals": len(every),
        "below_10_ms_percent": round(100 * sum(value < GOAL_MS for value in every) / len(every), 2),
        "ms": _spread(every),
        "livez_ms": _spread(livez),
        "slowest_cases_ms": {name: _spread(seen[name]) for name in slowest},
    }


def _spread(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "p50": round(cuts[49], 2),
        "p90": round(cuts[89], 2),
        "p99": round(cuts[98], 2),
        "max": round(max(values), 2),
    }


@contextlib.contextmanager
def streaming(service: Service, count: int) -> Iterator[None]:
    """Keep `count` streams running: each is read to its end and started again."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with service.send_raw({"stream": True, **ENDLESS}) as connection:
                while not over.is_set() and connection.recv(65536):
                    pass

    readers = [threading.Thread(target=read) for _ in range(count)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        over.set()
        for reader in readers:
            reader.join()


def measured(folder: Path, count: int) -> dict[str, object]:
    with serving(folder) as service:
        service.chat(max_tokens=1)
        rounds(service, 1)
        made: dict[str, object] = {"idle": figures(rounds(service, count))}
        with streaming(service, 4):
            made["beside_4_streams"] = figures(rounds(service, count))
        body = (b" " * MIB for _ in range(300))
        made["300_mb_in_chunks_ms"] = round(milliseconds(service, chunked(body)), 1)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds through the table (default: 20)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = measured(Path(folder), options.rounds)
    print(json.dumps(made, indent=2))
    if options.json:
        record(options.json, made, cases=len(CASES), rounds=options.rounds)


if __name__ == "__main__":
    main()
