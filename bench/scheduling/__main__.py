"""Compares the waits for models with those under the policies of other projects, when the models exceed the memory.

    python -m bench.scheduling [--json] [--quick] [--seed N] [--causes] [--jobs N] [--resume FILE]
                               [--policies A,B] [--traces A,B] [--machines A,B] [--record FILE] [--plot FILE.svg]

A discrete-event simulation. `ours` is the real scheduler: every event goes through `schedule.step`, on a simulated
clock. The peers are small simulators of other projects' policies, on the same machine, models and requests.
`lower-bound` is the minimum number of loads of any policy whose longest wait is no longer than ours in that run; it has
no waits. `clairvoyant` (not run by default) is ours with each model's next request known in advance.
Requests wait without a time limit: no timeout, no rejection, and no unloading of idle models by TTL.

Open workloads come first, then closed loops (clients.py), then priorities and replicas (configured.py). The whole takes
hours on one core: with --resume, each world that is done is written to FILE, and not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

from bench.record import record
from bench.scheduling import clients, configured
from bench.scheduling.arrivals import KINDS
from bench.scheduling.machines import MACHINES
from bench.scheduling.ours import Ours
from bench.scheduling.peers import PEERS
from bench.scheduling.results import Result
from bench.scheduling.table import table
from bench.scheduling.verdict import verdict
from bench.scheduling.worlds import ALL_MACHINES, COMPARED, POLICIES, World, run_worlds

LOADS, QUICK_LOADS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.7)
SEEDS, QUICK_SEEDS = (1, 2, 3, 4, 5), (1,)
REQUESTS, QUICK_REQUESTS = 2000, 150
QUICK_MACHINES = [each.name for each in MACHINES]
CHOICES = {"policies": list(POLICIES), "traces": list(KINDS), "machines": list(ALL_MACHINES)}


def main() -> None:
    options = _options()
    ran = run_worlds(_worlds(options), options.jobs, options.resume)
    made: dict[str, Any] = {"runs": ran.runs, "verdict": verdict(ran.runs)}
    if options.causes:
        made["causes"] = ran.causes
    if _is_whole_comparison(options):
        made |= _further_parts(options.quick, _seeds(options)[0])
    print(json.dumps(made) if options.json else table(made))
    if options.record:
        record(options.record, made, requests=_count(options), quick=options.quick)
    if options.plot:
        from bench.scheduling.plot import draw

        draw(options.plot, ran.runs)


def _worlds(options: argparse.Namespace) -> list[World]:
    """With disks of their own, one seed shows the difference."""
    loads, seeds = QUICK_LOADS if options.quick else LOADS, _seeds(options)
    return [
        World(trace, machine, load, seed, _count(options), tuple(options.policies), options.causes)
        for machine, trace, load, seed in itertools.product(options.machines, options.traces, loads, seeds)
        if seed == seeds[0] or ALL_MACHINES[machine].shares_disk
    ]


def _count(options: argparse.Namespace) -> int:
    return QUICK_REQUESTS if options.quick else REQUESTS


def _seeds(options: argparse.Namespace) -> tuple[int, ...]:
    return (options.seed,) if options.seed is not None else QUICK_SEEDS if options.quick else SEEDS


def _is_whole_comparison(options: argparse.Namespace) -> bool:
    """Not only some of the worlds: closed loops and settings belong to it."""
    return bool(set(QUICK_MACHINES) <= set(options.machines) and set(KINDS) == set(options.traces))


def _further_parts(quick: bool, seed: int) -> dict[str, Any]:
    seconds, thinks = (
        (clients.QUICK_SECONDS, clients.QUICK_THINK_SECONDS) if quick else (clients.SECONDS, clients.THINK_SECONDS)
    )
    return {
        "closed_loops": clients.closed_loops(_closed_loop_policies(), seconds, thinks, seed),
        "configured": configured.configured(configured.QUICK_COUNT if quick else configured.COUNT, seed),
    }


def _closed_loop_policies() -> dict[str, clients.Run]:
    def run(policy: Any) -> clients.Run:
        def run_(machine: Any, of: clients.Clients) -> Result:
            return policy(machine, of.first, of.follow_up).run()  # type: ignore[no-any-return]

        return run_

    return {name: run(policy) for name, policy in {"ours": Ours, **PEERS}.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scheduling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute; the figures scatter")
    parser.add_argument("--seed", type=int, help="only this seed; 1 to 5 are the default, 1 with --quick")
    parser.add_argument("--causes", action="store_true", help="also what the requests waited for")
    parser.add_argument("--jobs", type=int, default=1, help="number of worlds that run at the same time (1)")
    parser.add_argument("--resume", type=Path, help="file of the worlds that are done; continued if it exists")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    for what, names in CHOICES.items():
        usual = list(COMPARED) if what == "policies" else names
        parser.add_argument(f"--{what}", type=lambda text: text.split(","), default=usual, help=", ".join(names))
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="also draw a plot into this SVG file")
    options = parser.parse_args()
    if options.quick and options.machines == list(ALL_MACHINES):
        options.machines = QUICK_MACHINES
    if options.plot and not importlib.util.find_spec("matplotlib"):  # fail now, not after the runs
        parser.error("--plot needs matplotlib: pip install '.[bench]'")
    for what, names in CHOICES.items():
        if unknown := set(getattr(options, what)) - set(names):
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
