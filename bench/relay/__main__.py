"""Compares the data path of the whole service with other proxies.

    python -m bench.relay [--json] [--quick] [--rounds N] [--systems a,b] [--record FILE] [--plot FILE.svg]

Our service runs in full, as users start it: command line, gunicorn, catalog, pool, metrics, log. Its llama-server is a
fake one in C (upstream.c) that accepts llama-server's command line and answers immediately. The same fake server is
measured directly and behind nginx, a naive Flask + requests proxy and LiteLLM. The proxy runs on core 0; the load
generator, the fake server and this program run on core 1. If llama-server is on PATH, eight clients also request small
answers of a tiny model from it: directly (direct-real), through ours (ours-real), and through its router mode (router).

Rounds are interleaved: each round starts every system once, in a different order. Figures are medians of the rounds
with their range; ratios are computed within each round.

Token latency is measured from the fake server's send to the client's recv. CPU and memory are the proxy's alone; memory
is PSS above the proxy's PSS just before the streams started. TTFT is measured with short extra streams on new
connections, while the other streams run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.record import record
from bench.relay.cases import FAST, FEW, MANY, QUICK, SLOW, Times
from bench.relay.figures import figures
from bench.relay.load import beside, burst, small, streams
from bench.relay.rounds import Round, Seen
from bench.relay.stand_in import MEASURED_CORE, OTHER_CORE, Programs, compiled, pin, upstream
from bench.relay.systems import SYSTEMS, Running, Surroundings, System, earlier
from bench.relay.usage import memory_mib
from tests.helpers.service import wait_for

CASES = (FEW, SLOW, FAST, MANY)


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {OTHER_CORE})
    left_out = {each.name: why for each in SYSTEMS if (why := each.missing())}
    if not shutil.which("wrk"):
        left_out["small answers"] = "wrk is not installed"
    for what, why in left_out.items():
        _say(f"skipped: {what}: {why}")
    chosen = [each for each in SYSTEMS if each.name in options.systems and each.name not in left_out]
    if options.earlier:
        chosen.append(earlier(options.earlier))
    rounds = _rounds(chosen, options.rounds, QUICK if options.quick else Times())
    made = {**figures(rounds), "left_out": left_out}
    print(json.dumps(made) if options.json else _tables(made))
    if options.record:
        record(options.record, made, rounds=options.rounds, quick=options.quick)
    if options.plot:
        from bench.relay.plot import draw

        draw(options.plot, made)


def _options() -> argparse.Namespace:
    names = [each.name for each in SYSTEMS]
    parser = argparse.ArgumentParser(
        prog="python -m bench.relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one to two minutes; the figures scatter")
    parser.add_argument(
        "--systems", type=lambda text: text.split(","), default=names, help=f"comma-separated: {', '.join(names)}"
    )
    parser.add_argument("--earlier", type=Path, help="also measure ours from this checkout, in the same rounds")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="also draw a plot into this SVG file")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.plot and not importlib.util.find_spec("matplotlib"):  # fail now, not after the rounds
        parser.error("--plot needs matplotlib: pip install '.[bench]'")
    if unknown := set(options.systems) - set(names):
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    return options


def _rounds(systems: list[System], count: int, times: Times) -> list[Round]:
    made: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        programs = compiled(Path(folder))
        with upstream(programs) as port:
            for number in range(count):
                seen: Round = {}
                for system in _order(systems, number):
                    _say(f"round {number + 1} of {count}: {system.name}")
                    own = Path(folder) / f"{system.name}-{number}"
                    own.mkdir()
                    seen[system.name] = _measured(system, Surroundings(own, programs, port), times)
                made.append(seen)
    return made


def _order(systems: list[System], number: int) -> list[System]:
    """The systems in a different order for each round: rotated, and reversed in every second round."""
    first = number % len(systems)
    turned = systems[first:] + systems[:first]
    return turned[::-1] if number % 2 else turned


def _measured(system: System, given: Surroundings, times: Times) -> Seen:
    seen: Seen = {}
    with system.start(given) as running:
        pin(running.processes(), MEASURED_CORE)
        if shutil.which("wrk"):
            seen["small"] = small(running, times.small, system.clients)
        for case in CASES:
            if case.streams <= system.most_streams:
                idle_mib = memory_mib(running.processes())
                seen[case] = streams(given.programs.streams, running, case, times, idle_mib)
                _settle(running, times)
        if running.service:
            seen |= _of_ours(given.programs, running, times, system.clients)
    return seen


def _settle(running: Running, times: Times) -> None:
    """Wait until our service has noticed that all clients disconnected."""
    time.sleep(times.pause)
    if service := running.service:
        wait_for(lambda: not any(server["requests"] for server in service.servers()), 30)


def _of_ours(programs: Programs, running: Running, times: Times, clients: int) -> Seen:
    """Measurements of our service alone: /health under load, and a burst of requests that must be rejected."""
    seen: Seen = {}
    if shutil.which("wrk"):
        _, health = beside(lambda: small(running, times.small / 2, clients), running)
        seen["small answers"] = {"health_ms": health}
    seen["burst"] = burst(programs.streams, running)
    return seen


def _tables(made: dict[str, Any]) -> str:
    """The figures as text, one line per row, without ranges."""
    lines = []
    for name in ("streams", "small", "ratios", "bounds"):
        for row in made[name]:
            shown = {key: value for key, value in row.items() if key != "spread"}
            lines.append(f"{name:8} " + "  ".join(f"{key} {value}" for key, value in shown.items()))
    lines += [f"burst    {each}" for each in made["bursts"]]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
