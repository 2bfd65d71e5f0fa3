"""Kills of the service itself: they come after all other faults, one at a time, while users go on.

They are accounted for separately. While the service is down, connections are refused, and what was in it is cut: no
service can answer then. What it can promise is checked: it is back soon, nothing of the killed one is left, and every
request that is sent afterwards is answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import psutil

from bench.soak.faults import LONG, Together, pause
from bench.soak.target import REAL, SCRIPTED, STEADY, Target
from tests.helpers.service import has_exited, wait_for

MAX_DOWN_SECONDS = 20.0
SURVIVAL_SECONDS = 1.0  # what is alive after that outlived the kill
SWEPT_SECONDS = 10.0
LIMITED = ("overloaded", "queue_full", "wait_timeout")


def worker_killed(target: Target, chance: random.Random) -> None:
    """gunicorn's master starts another worker."""
    master, old = target.service.master, target.worker

    def start_again() -> None:
        workers = wait_for(lambda: [each for each in master.children() if each.pid != old.pid], MAX_DOWN_SECONDS)
        target.worker = workers[0]

    _kill(target, chance, old, target.service.family()[1:], start_again)


def master_killed(target: Target, chance: random.Random) -> None:
    """As the kernel or an operator might. A new service starts with the same state, as systemd would start it. A child
    of an engine outlives the kill: the new service ends it."""
    with target.scripted(FAKE_FORK_GRANDCHILD=1):
        target.ask(SCRIPTED)
        _kill(target, chance, target.service.master, target.service.family(), target.start_again)


KILLS: dict[str, Callable[[Target, random.Random], None]] = {
    each.__name__: each for each in (worker_killed, master_killed)
}


def _kill(
    target: Target,
    chance: random.Random,
    process: psutil.Process,
    family: list[psutil.Process],
    start_again: Callable[[], None],
) -> None:
    """Kill the process while it answers, and wait until the service is back."""
    with Together(target) as asked:
        for model in (STEADY, chance.choice(REAL)):
            asked.chat(model, **LONG)
            asked.chat(model, max_tokens=500, ignore_eos=True)
        pause(chance.uniform(0.2, 1))
        with target.account.outage() as outage:
            process.kill()
            pause(SURVIVAL_SECONDS)
            outage.survivors = sum(not has_exited(each) for each in family)
            start_again()
            wait_for(target.health, MAX_DOWN_SECONDS)
    try:
        wait_for(lambda: all(map(has_exited, family)), SWEPT_SECONDS)
    except AssertionError:
        target.account.fail(f"left behind by a kill: {[each for each in family if not has_exited(each)]}")
    for model in (STEADY, *REAL[:2]):
        target.expect(target.client.chat(model), "200", *LIMITED)
