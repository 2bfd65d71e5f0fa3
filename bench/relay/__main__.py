"""How the data path of the whole service does against its peers.

    python -m bench.relay [--json] [--quick] [--rounds N] [--systems a,b] [--record FILE] [--plot FILE.svg]

Ours is measured whole, as users start it: command line, gunicorn, catalogue, pool, metrics, log. Its llama-server is a
stand-in in C (upstream.c) that keeps llama-server's command line and answers at once; the same one is behind nginx, a
naive Flask + requests proxy and LiteLLM, and is asked directly. The proxy has core 0; the load, the stand-in and this
program have core 1. Where a llama-server is on PATH, eight clients also ask it for small answers, of a tiny model:
directly (direct-real), through ours (ours-real) and through its own router mode (router).

Rounds are interleaved: each has every system once, started anew, in another order. Figures are medians of the rounds
with their range; ratios are taken within a round.

A token's latency is from the stand-in's send to the client's recv. CPU and memory (PSS, above the same proxy's just
before the streams began) are the proxy's alone. TTFT is of short streams that come on top of the others, on new
connections.
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
from bench.relay.systems import SYSTEMS, Running, Surroundings, System
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
        _say(f"left out: {what}: {why}")
    chosen = [each for each in SYSTEMS if each.name in options.systems and each.name not in left_out]
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
    parser.add_argument("--rounds", type=int, help="rounds (default: 5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="a minute or two, for a look; its figures scatter")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else, on stdout")
    parser.add_argument("--record", type=Path, help="also write the figures to this file")
    parser.add_argument("--plot", type=Path, help="also draw them into this SVG file")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.plot and not importlib.util.find_spec("matplotlib"):  # said now, not after the rounds
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
    """Another one each round: begun elsewhere, and every second time backwards."""
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
    """Until all the streams that were left are noticed: our service says so itself."""
    time.sleep(times.pause)
    if service := running.service:
        wait_for(lambda: not any(server["requests"] for server in service.servers()), 30)


def _of_ours(programs: Programs, running: Running, times: Times, clients: int) -> Seen:
    """What only our service is asked: whether /health answers beside everything, and a burst that it has to refuse."""
    seen: Seen = {}
    if shutil.which("wrk"):
        _, health = beside(lambda: small(running, times.small / 2, clients), running)
        seen["small answers"] = {"health_ms": health}
    seen["burst"] = burst(programs.streams, running)
    return seen


def _tables(made: dict[str, Any]) -> str:
    """For people: a line a row, without the ranges."""
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
