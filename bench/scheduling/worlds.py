"""Worlds: a trace on a machine at an offered load, and what every policy makes of it.

Worlds do not depend on each other: they run in as many processes as there are jobs, and each one that is done is
written down at once, so that a run of hours can be continued.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.scheduling.arrivals import Request, trace
from bench.scheduling.bound import least_loads
from bench.scheduling.causes import Causes
from bench.scheduling.clairvoyant import Clairvoyant
from bench.scheduling.machines import MACHINES, OWN_DISKS, Machine
from bench.scheduling.ours import Ours
from bench.scheduling.peers import PEERS

BOUND = "lower-bound"
COMPARED = {"ours": Ours, **PEERS}
POLICIES = COMPARED | {"clairvoyant": Clairvoyant}
ALL_MACHINES = {each.name: each for each in (*MACHINES, *OWN_DISKS)}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    trace: str
    machine: str
    load: float
    seed: int
    requests: int
    policies: tuple[str, ...]
    tells_causes: bool

    def __str__(self) -> str:
        return f"{self.machine} {self.trace} {self.load} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Made:
    """What the policies made of a world."""

    runs: list[Row]  # one per policy, and one for the lower bound
    causes: list[Row]  # one for ours, if it was wanted


def run_world(world: World) -> Made:
    machine = ALL_MACHINES[world.machine]
    requests = trace(world.trace, machine, world.load, world.requests, world.seed)
    about: Row = {"trace": world.trace, "machine": world.machine, "load": world.load, "seed": world.seed}
    causes = Causes() if world.tells_causes else None
    runs = [about | {"policy": policy} | _figures(policy, machine, requests, causes) for policy in world.policies]
    told = [about | causes.per_request(len(requests))] if causes else []
    ours = next((run for run in runs if run["policy"] == "ours"), None)
    return Made([*runs, about | _bound(requests, machine, ours)] if ours else runs, told)


def _figures(policy: str, machine: Machine, requests: tuple[Request, ...], causes: Causes | None) -> Row:
    made = Ours(machine, requests, causes=causes) if policy == "ours" else POLICIES[policy](machine, requests)
    return dict(made.run().figures())


def _bound(requests: tuple[Request, ...], machine: Machine, ours: Row) -> Row:
    """The lower bound has loads, but no waits."""
    minimum = least_loads(requests, machine, ours["max_wait_s"])
    nothing = dict.fromkeys(key for key in ours if key.endswith(("_s", "_seconds")))
    return {"policy": BOUND, "loads_per_1000": round(1000 * minimum / len(requests), 1)} | nothing


def run_worlds(worlds: list[World], jobs: int, resume: Path | None) -> Made:
    """All of them, in their order; those in the file `resume` are not run again."""
    known = _known(resume)
    missing, began = [world for world in worlds if world not in known], time.perf_counter()
    for number, (world, made) in enumerate(zip(missing, _each(missing, jobs), strict=True), start=1):
        known[world] = made
        if resume:
            with resume.open("a") as file:
                print(json.dumps([asdict(world), asdict(made)]), file=file)
        at = time.perf_counter() - began
        print(f"{at:5.0f} s  {number} of {len(missing)}  {world}", file=sys.stderr, flush=True)
    every = [known[world] for world in worlds]
    return Made([run for made in every for run in made.runs], [row for made in every for row in made.causes])


def _each(worlds: list[World], jobs: int) -> Iterator[Made]:
    if jobs == 1:
        yield from map(run_world, worlds)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap(run_world, worlds)


def _known(resume: Path | None) -> dict[World, Made]:
    lines: Iterable[str] = resume.read_text().splitlines() if resume and resume.exists() else ()
    read = (json.loads(line) for line in lines)
    return {World(**{**world, "policies": tuple(world["policies"])}): Made(**made) for world, made in read}
