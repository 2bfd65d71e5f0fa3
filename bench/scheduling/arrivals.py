"""Traces of requests, the same for every policy.

Models are drawn from a Zipf distribution over the machine's models. Arrivals are an open workload: they do not wait for
answers. A trace is generated once, then stretched in time to the requested offered load.

Offered load: the share of the machine in use if every answer occupies its model's memory for its service time, SLOTS at
a time, and each model requested within SPAN_SECONDS is loaded once in that span. Loads are included because with thirty
models on one card they are most of the work; without them the number would not show how full the machine is.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path

from bench.scheduling.machines import RETURN_SECONDS, SLOTS, STOP_SECONDS, Machine, Subject

SPAN_SECONDS = 60.0
ZIPF = 1.0
AZURE = Path(__file__).with_name("azure_code_2023.csv.gz")


@dataclass(frozen=True, slots=True)
class Request:
    number: int
    at: float
    subject: Subject
    service_seconds: float
    client: str = ""  # of a closed loop

    @property
    def order(self) -> tuple[float, int]:
        """Sort key: the earliest arrival first."""
        return self.at, self.number


FollowUp = Callable[[Request, float], Request | None]  # what the client of an answered request sends next


def no_follow_up(_request: Request, _now: float) -> None:
    """An open workload: nobody waits for an answer to send the next request."""


Draw = Callable[[], Subject]


def trace(name: str, machine: Machine, load: float, count: int, seed: int = 1) -> tuple[Request, ...]:
    """`count` requests of the trace kind `name`, at this offered load."""
    chance = random.Random(f"{name} {machine.name} {seed}")
    drawn = itertools.islice(KINDS[name](chance, _by_zipf(chance, machine)), count)
    made = [
        Request(number, at, subject, seconds) for number, (at, subject, seconds) in enumerate(sorted_by_time(drawn))
    ]
    return _stretched(made, machine, load)


def sorted_by_time(drawn: Iterator[tuple[float, Subject, float]]) -> list[tuple[float, Subject, float]]:
    return sorted(drawn, key=lambda each: each[0])


def _by_zipf(chance: random.Random, machine: Machine) -> Draw:
    models = list(machine.models)
    chance.shuffle(models)
    weights = [1 / rank**ZIPF for rank in range(1, len(models) + 1)]
    return lambda: chance.choices(models, weights)[0]


# --- kinds; the unit of time is the mean time between two requests ---------------------------------------------------


def _zipf(chance: random.Random, draw: Draw) -> Iterator[tuple[float, Subject, float]]:
    """Independent requests."""
    at = 0.0
    while True:
        at += chance.expovariate(1.0)
        yield at, *_chat(chance, draw())


def _bursts(chance: random.Random, draw: Draw) -> Iterator[tuple[float, Subject, float]]:
    """Jobs of two to thirty requests for one model at five times the mean rate, with pauses between them."""
    at = 0.0
    while True:
        subject, size = draw(), chance.randint(2, 30)
        for _ in range(size):
            at += chance.expovariate(5.0)
            yield at, *_chat(chance, subject)
        at += chance.expovariate(1 / (0.8 * size))


def _sessions(chance: random.Random, draw: Draw) -> Iterator[tuple[float, Subject, float]]:
    """Twelve users, each with one model for about ten requests, then with another."""
    people = [draw() for _ in range(12)]
    at = 0.0
    while True:
        at += chance.expovariate(1.0)
        person = chance.randrange(len(people))
        yield at, *_chat(chance, people[person])
        if chance.random() < 0.1:
            people[person] = draw()


def _agents(chance: random.Random, draw: Draw) -> Iterator[tuple[float, Subject, float]]:
    """Four agents, each alternating between two models: one that plans, one that writes."""
    agents = [itertools.cycle((draw(), draw())) for _ in range(4)]
    at = 0.0
    while True:
        at += chance.expovariate(1.0)
        number = chance.randrange(len(agents))
        yield at, *_chat(chance, next(agents[number]))
        if chance.random() < 1 / 30:
            agents[number] = itertools.cycle((draw(), draw()))


def _azure(chance: random.Random, draw: Draw) -> Iterator[tuple[float, Subject, float]]:
    """Real arrivals and token counts; the models are those of twenty programs that change theirs occasionally."""
    programs = [draw() for _ in range(20)]
    with gzip.open(AZURE, "rt", newline="") as file:
        for row in csv.DictReader(file):
            number = min(int(chance.expovariate(1 / 6)), len(programs) - 1)
            subject = programs[number]
            if chance.random() < 0.05:
                programs[number] = draw()
            tokens = int(row["context_tokens"]), int(row["generated_tokens"])
            yield int(row["offset_ms"]) / 1000, subject, subject.service_seconds(*tokens)


def _chat(chance: random.Random, subject: Subject) -> tuple[Subject, float]:
    context = min(6000, round(chance.lognormvariate(6.4, 0.9)))
    generated = min(1500, round(chance.lognormvariate(5.0, 0.8)))
    return subject, subject.service_seconds(context, generated)


KINDS: dict[str, Callable[[random.Random, Draw], Iterator[tuple[float, Subject, float]]]] = {
    "azure-code": _azure,
    "zipf": _zipf,
    "bursts": _bursts,
    "sessions": _sessions,
    "agents": _agents,
}


# --- offered load ----------------------------------------------------------------------------------------------------


def offered_load(requests: list[Request], machine: Machine, factor: float = 1.0) -> float:
    """The offered load of this trace with all arrival times multiplied by `factor`."""
    seconds = factor * (requests[-1].at - requests[0].at)
    answering = sum(each.service_seconds * each.subject.gpu_bytes for each in requests) / SLOTS
    spans, loading = seconds / SPAN_SECONDS, 0.0
    for subject, count in Counter(each.subject for each in requests).items():
        loads = spans * (1 - exp(-count / spans))
        loading += loads * (subject.load_seconds + STOP_SECONDS + RETURN_SECONDS) * subject.gpu_bytes
    return (answering + loading) / (seconds * machine.bytes)


def _stretched(requests: list[Request], machine: Machine, load: float) -> tuple[Request, ...]:
    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if offered_load(requests, machine, middle) > load else (low, middle)
    return tuple(replace(each, at=each.at * high) for each in requests)
