"""Compares the scheduler with those of other projects when the models exceed the memory.

    python -m bench.scheduling [--json] [--quick] [--policies A,B] [--traces A,B] [--machines A,B]
                               [--record FILE] [--plot FILE.svg]

A discrete-event simulation. `ours` is the real scheduler: every event goes through `schedule.step`, on a simulated
clock. The peers are small simulators of other projects' policies, on the same machine, models and requests.
`lower-bound` is the minimum number of loads of any policy whose longest wait is no longer than ours in that run; it has
no waits. `clairvoyant` (not run by default) is ours with each model's next request known in advance.
Requests wait without a time limit: no timeout, no rejection, and no unloading of idle models by TTL.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.record import record
from bench.scheduling.arrivals import KINDS, Request, trace
from bench.scheduling.bound import least_loads
from bench.scheduling.clairvoyant import Clairvoyant
from bench.scheduling.machines import MACHINES, Machine
from bench.scheduling.ours import Ours
from bench.scheduling.peers import PEERS
from bench.scheduling.verdict import table, verdict

LOADS = (0.3, 0.5, 0.7, 0.9)
QUICK_LOADS = (0.5, 0.9)
REQUESTS, QUICK_REQUESTS = 2000, 250
COMPARED = {"ours": Ours, **PEERS}
POLICIES = COMPARED | {"clairvoyant": Clairvoyant}
BOUND = "lower-bound"
CHOICES = {"policies": list(POLICIES), "traces": list(KINDS), "machines": [each.name for each in MACHINES]}


def main() -> None:
    options = _options()
    count, loads = (QUICK_REQUESTS, QUICK_LOADS) if options.quick else (REQUESTS, LOADS)
    began, runs = time.perf_counter(), list[dict[str, Any]]()
    for machine in (each for each in MACHINES if each.name in options.machines):
        for name in options.traces:
            for load in loads:
                runs += _runs(machine, name, load, trace(name, machine, load, count), options.policies)
                print(
                    f"{time.perf_counter() - began:5.0f} s  {machine.name} {name} {load}", file=sys.stderr, flush=True
                )
    made = {"runs": runs, "verdict": verdict(runs)}
    print(json.dumps(made) if options.json else table(made))
    if options.record:
        record(options.record, made, requests=count, quick=options.quick)
    if options.plot:
        from bench.scheduling.plot import draw

        draw(options.plot, runs)


def _runs(
    machine: Machine, name: str, load: float, requests: tuple[Request, ...], policies: list[str]
) -> list[dict[str, Any]]:
    """Rows of one trace on one machine: one per policy, and one for the lower bound."""
    about, rows = {"trace": name, "machine": machine.name, "load": load}, []
    for policy in policies:
        rows.append(about | {"policy": policy} | POLICIES[policy](machine, requests).run().figures())
    if "ours" in policies:
        ours = next(row for row in rows if row["policy"] == "ours")
        minimum = least_loads(requests, machine, ours["max_wait_s"])
        nothing = dict.fromkeys(key for key in ours if key.endswith(("_s", "_seconds")))
        rows.append(about | {"policy": BOUND, "loads_per_1000": round(1000 * minimum / len(requests), 1)} | nothing)
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scheduling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute; the figures scatter")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    for what, names in CHOICES.items():
        usual = list(COMPARED) if what == "policies" else names
        parser.add_argument(f"--{what}", type=lambda text: text.split(","), default=usual, help=", ".join(names))
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="also draw a plot into this SVG file")
    options = parser.parse_args()
    if options.plot and not importlib.util.find_spec("matplotlib"):  # fail now, not after the runs
        parser.error("--plot needs matplotlib: pip install '.[bench]'")
    for what, names in CHOICES.items():
        if unknown := set(getattr(options, what)) - set(names):
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
