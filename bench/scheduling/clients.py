"""Closed loops: clients that send their next request when the last one is answered, after some time to think.

An open workload hides what one person at a keyboard feels: there a model that is kept waiting is asked no less often.
Each scene is a card with room for one of its two models.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.scheduling.arrivals import Request
from bench.scheduling.machines import GIB, MACHINES, Machine, Subject
from bench.scheduling.results import Result

SECONDS, QUICK_SECONDS = 3600.0, 600.0
THINK_SECONDS, QUICK_THINK_SECONDS = (0.0, 2.0, 10.0), (2.0,)  # means: half to one and a half of it
ANSWER_SECONDS = (1.0, 7.0)  # any between, equally likely
MODEL_GIB = 15
LONE = "lone"  # the client whose waits count where the others only keep a model busy
NEVER_IDLE_CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    models: tuple[Subject, ...]  # in turn
    think_seconds: float
    begins_at: float = 0.0


@dataclass
class Clients:
    """The requests of all clients, until `seconds` are over."""

    clients: tuple[Client, ...]
    seconds: float
    seed: int = 1
    first: tuple[Request, ...] = ()
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._chance = {each.name: random.Random(f"{each.name} {self.seed}") for each in self.clients}
        self._by_name = {each.name: each for each in self.clients}
        self._next_model = {each.name: itertools.cycle(each.models) for each in self.clients}
        self.first = tuple(self._request(each, each.begins_at) for each in self.clients)

    def follow_up(self, answered: Request, at: float) -> Request | None:
        """What the client of a request that is answered at `at` sends next."""
        client = self._by_name[answered.client]
        asks_at = at + client.think_seconds * self._chance[client.name].uniform(0.5, 1.5)
        return self._request(client, asks_at) if asks_at < self.seconds else None

    def _request(self, client: Client, at: float) -> Request:
        model, seconds = next(self._next_model[client.name]), self._chance[client.name].uniform(*ANSWER_SECONDS)
        return Request(next(self._numbers), at, model, seconds, client.name)


def _two_models(machine: Machine) -> tuple[Subject, Subject]:
    by_distance = sorted(machine.models, key=lambda each: abs(each.gpu_bytes / GIB - MODEL_GIB))
    return by_distance[0], by_distance[1]


def _a_model_each(a: Subject, b: Subject, think: float) -> tuple[Client, ...]:
    return Client("one", (a,), think), Client("two", (b,), think, begins_at=1.0)


def _alternating(a: Subject, b: Subject, think: float) -> tuple[Client, ...]:
    return (Client("one", (a, b), think),)


def _two_alternating(a: Subject, b: Subject, think: float) -> tuple[Client, ...]:
    return Client("one", (a, b), think), Client("two", (a, b), think, begins_at=7.0)


def _behind_a_busy_model(a: Subject, b: Subject, think: float) -> tuple[Client, ...]:
    others = (Client(f"other {n}", (a,), 0.0, begins_at=n * 1.1) for n in range(NEVER_IDLE_CLIENTS))
    return *others, Client(LONE, (b,), think, begins_at=60.0)


SCENES: dict[str, Callable[[Subject, Subject, float], tuple[Client, ...]]] = {
    "a model each": _a_model_each,
    "alternating": _alternating,
    "two alternating": _two_alternating,
    "behind a busy model": _behind_a_busy_model,
}
Run = Callable[[Machine, Clients], Result]


def closed_loops(
    policies: dict[str, Run], seconds: float, thinks: tuple[float, ...], seed: int
) -> list[dict[str, Any]]:
    """A row for each scene, time to think and policy."""
    machine = MACHINES[0]
    a, b = _two_models(machine)
    return [
        {"scene": scene, "think_s": think, "policy": policy, "seed": seed}
        | _figures(run(machine, Clients(clients(a, b, think), seconds, seed)), seconds)
        for scene, clients in SCENES.items()
        for think in thinks
        for policy, run in policies.items()
    ]


def _figures(result: Result, seconds: float) -> dict[str, float]:
    waits = result.waits_of.get(LONE, result.waits)
    return {
        "mean_wait_s": round(statistics.fmean(waits), 2),
        "max_wait_s": round(max(waits), 2),
        "answers_per_minute": round(60 * len(waits) / seconds, 2),
        "loads_per_minute": round(60 * result.loads / seconds, 2),
    }
