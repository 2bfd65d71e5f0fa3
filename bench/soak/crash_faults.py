"""Faults of requests that crash their engine: the scripted one does for a body with a certain text."""

from __future__ import annotations

import random
from typing import Any

from bench.soak.engine_faults import ALWAYS
from bench.soak.faults import Together, fault, pause
from bench.soak.target import SCRIPTED, Target

KILLER = "crash the engine"
REFUSED = "request_crashes_engine"
SENT, MAX_CRASHES = 6, 3


def killing(chance: random.Random) -> dict[str, Any]:
    """A body that was never sent before."""
    return {"messages": [{"role": "user", "content": f"{KILLER} {chance.random()}"}]}


@fault
def body_crashes_its_engine(target: Target, chance: random.Random) -> None:
    """The same body again and again: it is refused soon, and others are answered meanwhile."""
    body, crashes = killing(chance), 0
    with target.scripted(FAKE_DIE_ON=KILLER):
        for _ in range(SENT):
            with Together(target) as asked:
                asked.chat(SCRIPTED, stream=True)
                pause(chance.uniform(0, 0.2))
                answer = target.client.chat(SCRIPTED, **body)
            found = target.account.add(answer)
            crashes += found.kind == "upstream_crashed"
        if crashes > MAX_CRASHES:
            target.account.fail(f"a body crashed its engine {crashes} times")
        target.expect(target.client.chat(SCRIPTED), "200", *ALWAYS)


@fault
def client_sends_crashing_bodies(target: Target, chance: random.Random) -> None:
    """Another body each time: those beside it get a clear error, those after it an answer."""
    with target.scripted(FAKE_DIE_ON=KILLER, FAKE_STREAM_TOKENS=100):
        for _ in range(SENT):
            with Together(target) as asked:
                asked.chat(SCRIPTED, stream=True)
                pause(chance.uniform(0, 0.5))
                target.expect(target.client.chat(SCRIPTED, **killing(chance)), "upstream_crashed", *ALWAYS)
        target.expect(target.client.chat(SCRIPTED), "200", *ALWAYS)
