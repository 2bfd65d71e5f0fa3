"""Faults of files, of the machine, and of those who give orders."""

from __future__ import annotations

import contextlib
import os
import random
import signal

from bench.soak.faults import LONG, Together, fault, pause
from bench.soak.machine import few_descriptors
from bench.soak.target import REAL, SCRIPTED, Target

YEAR_SECONDS = 365 * 86400


@fault
def model_file_replaced(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    with Together(target) as asked:
        asked.chat(model, **LONG)
        pause(0.2)
        target.restore(model)
        target.rescan()
        asked.chat(model)


@fault
def model_file_removed(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    with target.lock_for("files"):
        (target.models / f"{model}.gguf").unlink()
        target.rescan()
        target.ask(model)
        target.restore(model)
        target.rescan()


@fault
def model_file_truncated(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    with target.lock_for("files"):
        target.unload(model)
        target.restore(model)  # a file of its own: engines may have the old one mapped
        os.truncate(target.models / f"{model}.gguf", chance.choice((0, 100, 100_000)))
        if chance.random() < 0.5:
            target.rescan()
        target.ask(model)
        target.restore(model)
        target.rescan()
    target.ask(model)


@fault
def hup(target: Target, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        target.service.process.send_signal(signal.SIGHUP)
        pause(0.1)


@fault
def configuration_reloaded(target: Target, chance: random.Random) -> None:
    """Streams run meanwhile, of a model that changes and of one that does not."""
    changed, other = chance.sample(REAL, 2)
    settings = target.settings()
    settings["models"][changed] = chance.choice(({"parallel": 2}, {"aliases": ["changed"]}, {"ctx_size": 2048}))
    settings["scheduling"] = settings["scheduling"] | {"ttl_seconds": chance.choice((10, 30))}
    with target.lock_for("configuration"), Together(target) as asked:
        for model in (changed, other):
            asked.chat(model, **LONG)
        pause(0.3)
        for new in (settings, target.settings()):
            target.write_config(new)
            target.expect(target.client.post("/admin/reload", {}), "200", "overloaded")
            asked.chat(changed)
            pause(chance.uniform(0, 1))


@fault
def invalid_configuration_reloaded(target: Target, chance: random.Random) -> None:
    with target.lock_for("configuration"):
        try:
            target.config.write_text(chance.choice(("models: [", "scheduling: {max_waiting: -1}", "made_up: 1")))
            target.expect(target.client.post("/admin/reload", {}), "invalid_configuration", "overloaded")
            target.service.process.send_signal(signal.SIGHUP)
            target.ask(chance.choice(REAL))
        finally:
            target.write_config(target.settings())
            target.expect(target.client.post("/admin/reload", {}), "200", "overloaded")


@fault
def unload_races(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    with Together(target) as asked:
        for _ in range(4):
            asked.chat(model, max_tokens=chance.choice((1, 200)), stream=chance.random() < 0.5)
            pause(chance.uniform(0, 0.1))
            asked.do(target.unload, model)
            pause(chance.uniform(0, 0.3))


@fault
def unload_while_loading(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_LOAD_SECONDS=2), Together(target) as asked:
        for _ in range(3):
            asked.chat(SCRIPTED, stream=chance.random() < 0.5)
        pause(chance.uniform(0.1, 1.5))
        target.unload(SCRIPTED)


@fault
def all_models_at_once(target: Target, chance: random.Random) -> None:
    with Together(target) as asked:
        for model in (*REAL, SCRIPTED):
            asked.chat(model)
            asked.chat(model, stream=True)


@fault
def state_disk_full(target: Target, chance: random.Random) -> None:
    with target.lock_for("disk"), target.state_disk.full(target.worker):
        model = chance.choice(REAL)
        target.unload(model)
        target.ask(model)
        pause(chance.uniform(0, 2))


@fault
def clock_jumps(target: Target, chance: random.Random) -> None:
    with target.lock_for("clock"):
        for _ in range(3):
            target.clock.jump(chance.choice((-10 * YEAR_SECONDS, -86400, -3600, 60, 3600, 400 * 86400)))
            target.ask(chance.choice(REAL))
            pause(chance.uniform(0, 1))
        target.clock.jump(0)


@fault
def log_is_not_read(target: Target, chance: random.Random) -> None:
    """The pipe that takes the service's log is full after 64 KiB."""
    target.service.is_read.clear()
    try:
        with Together(target) as asked:
            for _ in range(20):
                asked.chat(chance.choice(REAL[:2]), max_tokens=1)
            asked.do(lambda: [target.client.get("/livez") for _ in range(500)])
            pause(2)
    finally:
        target.service.is_read.set()


@fault
def few_file_descriptors(target: Target, chance: random.Random) -> None:
    with target.lock_for("descriptors"):
        model = chance.choice(REAL)
        target.unload(model)
        with few_descriptors(target.worker, more=chance.choice((12, 20))), Together(target) as asked:
            asked.chat(model)
            asked.chat(model, stream=True)
            pause(0.5)
        target.ask(model)


@fault
def stop_signals_that_are_refused(target: Target, chance: random.Random) -> None:
    """USR2, TTIN and TTOU would start a second owner of the GPUs."""
    for number in (signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        with contextlib.suppress(ProcessLookupError):
            target.service.process.send_signal(number)
        pause(0.05)
