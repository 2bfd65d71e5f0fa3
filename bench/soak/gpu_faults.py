"""Faults of GPUs and of their driver, all of which heal."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from bench.soak.faults import Together, fault, pause
from bench.soak.machine import CARDS
from bench.soak.target import REAL, Target


def _during(target: Target, chance: random.Random, *cards: Any, **more: Any) -> None:
    """Requests for every model while the GPUs are like this, and afterwards."""
    with target.lock_for("gpus"):
        with target.gpus.changed(*cards, **more), Together(target) as asked:
            pause(chance.uniform(0.3, 0.8))
            for model in chance.sample(REAL, 2):
                asked.chat(model, stream=chance.random() < 0.5)
            pause(chance.uniform(1, 3))
        target.ask(chance.choice(REAL))


@fault
def gpu_lost(target: Target, chance: random.Random) -> None:
    lost = chance.randrange(2)
    _during(target, chance, *(replace(card, flags=("lost",)) if n == lost else card for n, card in enumerate(CARDS)))


@fault
def all_gpus_lost(target: Target, chance: random.Random) -> None:
    _during(target, chance, *(replace(card, flags=("lost",)) for card in CARDS))


@fault
def nvml_fails(target: Target, chance: random.Random) -> None:
    fault = chance.choice(("error all 999", "error nvmlDeviceGetMemoryInfo 15", "error nvmlDeviceGetCount_v2 9"))
    _during(target, chance, faults=(fault,))


@fault
def nvml_hangs(target: Target, chance: random.Random) -> None:
    call = chance.choice(("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUUID", "nvmlDeviceGetUtilizationRates"))
    _during(target, chance, faults=(f"delay {call} {chance.choice((500, 3000))}",))


@fault
def driver_unloaded(target: Target, chance: random.Random) -> None:
    _during(target, chance, is_loaded=False)


@fault
def another_process_takes_gpu_memory(target: Target, chance: random.Random) -> None:
    _during(target, chance, *(replace(card, used_mib=chance.choice((0, 700, 1300))) for card in CARDS))


@fault
def gpus_renumbered(target: Target, chance: random.Random) -> None:
    _during(target, chance, *reversed(CARDS))


@fault
def gpus_report_little(target: Target, chance: random.Random) -> None:
    flag = chance.choice(("hidden_pids", "no_processes", "no_utilization", "no_memory"))
    _during(target, chance, *(replace(card, flags=(flag,)) for card in CARDS))
