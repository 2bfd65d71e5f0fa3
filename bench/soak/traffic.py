"""Users of the service while it has faults: each stays with a model for a while, asks, reads, and pauses."""

from __future__ import annotations

import random
import threading
from typing import Any

from bench.soak.target import REAL, SCRIPTED, STEADY, Target

STAYS = 0.85  # probability that a user's next request is for the same model
MODELS = (*REAL, SCRIPTED)


class Traffic:
    """`users` threads, the first of which asks for STEADY only. Pause them with `stop`."""

    def __init__(self, target: Target, users: int, seed: int) -> None:
        self._target = target
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(number, seed)) for number in range(users)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _use(self, number: int, seed: int) -> None:
        chance = random.Random(f"{seed} {number}")
        model = STEADY
        while not self._over.wait(chance.uniform(0.1, 0.9)):
            if number and (model == STEADY or chance.random() > STAYS):
                model = chance.choice(MODELS)
            self._target.ask(model, **_fields(chance))


def _fields(chance: random.Random) -> dict[str, Any]:
    return {"max_tokens": chance.choice((1, 8, 40)), "stream": chance.random() < 0.6, "ignore_eos": True}
