"""Counts the source files a reader visits to follow one request.

    python -m bench.walk [--runs N] [--files] [--json] [--record FILE]

Each run starts a new service: real gunicorn, the embedded engine, the demo model. A profiler in every thread of the
worker records each call of a function in app/ or workers/. Four requests are traced, from the first byte to shortly
after the end of the answer, so that work done afterwards is included:

    cold      the first request of the service, a chat of four tokens; it loads the model
    loaded    the same request again
    error     a chat with an unknown model
    metrics   a scrape

All but `cold` are sent once before they are traced, so one-time work is not counted. Nothing is subtracted.

`files` counts the files with at least one function called. `changes` counts calls whose file differs from that of the
previous traced call on the same thread; the first call counts, returns do not. `through libraries` compares with the
previous call of any file, including libraries: a callback from a library counts even if it returns to the same file.

These three are of the thread that handles the request, and vary little between runs. The llama-server's thread and all
threads of the worker are shown next to them (files of all threads together, changes summed over the threads); they
include server log lines and periodic work that belong to no request. All figures are medians of the runs.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from bench.record import record
from tests.helpers.service import Service, serving

ROOT = Path(__file__).resolve().parents[1]
LONG_LINES = 300  # longer files are flagged
QUIET_SECONDS = 1.0  # after the start, for background work
SETTLE_SECONDS = 0.3  # after an answer: log lines are written by another thread (QueueListener)
LOADED_SECONDS = 2.0  # after a load: its memory is measured 0.5 s later
MOST_ENTERED = 10  # shown without --files
GROUPS = {"request": "request", "server": "server-", "all": ""}  # prefixes of thread names


@dataclass
class Walk:
    """Calls by file, on one group of threads."""

    entered: Counter[str] = field(default_factory=Counter)  # changes into each file
    calls: Counter[str] = field(default_factory=Counter)
    through_libraries: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.walk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="number of services started in sequence (default: 5)")
    parser.add_argument("--files", action="store_true", help="also list the files of each request")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    made = figures([_run() for _ in range(options.runs)])
    print(json.dumps(made) if options.json else _text(made, options.files))
    if options.record:
        record(options.record, made, runs=options.runs)


# --- a run -----------------------------------------------------------------------------------------------


def _run() -> dict[str, dict[str, Walk]]:
    """Walks of one service, by request and thread group."""
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls"
        with walked(Path(folder), calls) as service:
            return {name: walks(lines) for name, lines in _followed(service, calls)}


def walked(folder: Path, calls: Path) -> AbstractContextManager[Service]:
    """Start a service whose worker writes its calls to the file `calls`."""
    program = ("-m", "bench.walked_service", str(calls))
    return serving(folder, program=program, ENGINE__BINARY="embedded")


def _followed(service: Service, calls: Path) -> Iterator[tuple[str, list[str]]]:
    assert service.url  # waits until it is ready
    time.sleep(QUIET_SECONDS)
    yield "cold", followed(calls, service.chat, 200, LOADED_SECONDS)
    traced: dict[str, tuple[Callable[[], requests.Response], int]] = {
        "loaded": (service.chat, 200),
        "error": (functools.partial(service.chat, "no-such-model"), 404),
        "metrics": (functools.partial(service.get, "/metrics"), 200),
    }
    for name, (send, status) in traced.items():
        followed(calls, send, status)
        yield name, followed(calls, send, status)


def followed(
    calls: Path, send: Callable[[], requests.Response], status: int, settle_seconds: float = SETTLE_SECONDS
) -> list[str]:
    """Lines the worker writes from the request until `settle_seconds` after the answer."""
    begin = calls.stat().st_size
    answer = send()
    assert answer.status_code == status, answer.text
    time.sleep(settle_seconds)
    with calls.open() as file:
        file.seek(begin)
        return file.read().splitlines()


# --- what is counted -------------------------------------------------------------------------------------


def walks(lines: Iterable[str]) -> dict[str, Walk]:
    """Walks by thread group, from lines of bench.walked_service."""
    by_group = {group: Walk() for group in GROUPS}
    last: dict[str, str] = {}
    for thread, file, is_from_elsewhere in (line.split("\t") for line in lines):
        for walk in (by_group[group] for group, prefix in GROUPS.items() if thread.startswith(prefix)):
            walk.calls[file] += 1
            walk.entered[file] += file != last.get(thread)
            walk.through_libraries += is_from_elsewhere == "1"
        last[thread] = file
    return by_group


def figures(runs: Sequence[dict[str, dict[str, Walk]]]) -> dict[str, Any]:
    """Summary of all runs, by request and thread group."""
    return {
        name: {group: _of_group([run[name][group] for run in runs]) for group in GROUPS}
        for name in ("loaded", "cold", "error", "metrics")
    }


def _of_group(seen: list[Walk]) -> dict[str, Any]:
    return {
        "files": _spread(len(walk.calls) for walk in seen),
        "changes": _spread(walk.entered.total() for walk in seen),
        "through_libraries": _spread(walk.through_libraries for walk in seen),
        "visited": _visited(seen),
    }


def _spread(values: Iterable[int]) -> dict[str, int]:
    ordered = sorted(values)
    return {"min": ordered[0], "median": statistics.median_low(ordered), "max": ordered[-1]}


def _visited(seen: list[Walk]) -> list[dict[str, Any]]:
    """Files visited in most runs, the most often entered first."""
    every = {file for walk in seen for file in walk.calls}
    rows = [row for file in every if (row := _visits(file, seen))["calls"]]
    return sorted(rows, key=lambda row: (-row["entered"], -row["calls"], row["file"]))


def _visits(file: str, seen: list[Walk]) -> dict[str, Any]:
    lines = len((ROOT / file).read_text().splitlines())
    return {
        "file": file,
        "lines": lines,
        "long": lines > LONG_LINES,
        "entered": statistics.median_low(walk.entered[file] for walk in seen),
        "calls": statistics.median_low(walk.calls[file] for walk in seen),
    }


# --- as text ---------------------------------------------------------------------------------------------


def _text(made: dict[str, Any], with_files: bool) -> str:
    lines = [
        f"{'':8} {'request thread':52} {'server thread':>17} {'all threads':>15}",
        f"{'':8} {'files':>6} {'changes':>8} {'through libraries':>18} {'lines':>7} {f'over {LONG_LINES}':>9}"
        f" {'files':>8} {'changes':>8} {'files':>6} {'changes':>8}",
    ]
    lines += [_row(name, groups) for name, groups in made.items()]
    if not with_files:
        return "\n".join(lines + _listing("loaded, most entered", made["loaded"]["request"]["visited"][:MOST_ENTERED]))
    for name, groups in made.items():
        lines += _listing(f"{name}, request thread", groups["request"]["visited"])
        lines += _listing(f"{name}, server thread", groups["server"]["visited"])
    return "\n".join(lines)


def _row(name: str, groups: dict[str, Any]) -> str:
    own, server, every = (groups[group] for group in GROUPS)
    long = sum(row["long"] for row in own["visited"])
    lines = sum(row["lines"] for row in own["visited"])
    files, changes, libraries = (own[key]["median"] for key in ("files", "changes", "through_libraries"))
    others = [group[key]["median"] for group in (server, every) for key in ("files", "changes")]
    return (
        f"{name:8} {files:6} {changes:8} {libraries:18} {lines:7} {long:9}"
        f" {others[0]:8} {others[1]:8} {others[2]:6} {others[3]:8}"
    )


def _listing(title: str, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = ["", f"{title:50} {'lines':>6} {'entered':>8} {'calls':>6}"]
    return head + [
        f"{row['file']:50} {row['lines']:6} {row['entered']:8} {row['calls']:6}{'  long' * row['long']}" for row in rows
    ]


if __name__ == "__main__":
    main()
