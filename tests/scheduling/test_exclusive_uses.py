"""A suspect gets a server for itself, and yet nobody takes a model from others by sending suspects."""

from __future__ import annotations

from signal import SIGSEGV

import pytest

from app.entities.model import Replicas
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Spawn
from app.use_cases.scheduling.schedule import due_at
from app.use_cases.scheduling.suspects import EXCLUSIVE_SECONDS, HOLD_SECONDS
from tests.scheduling.test_suspects import Service, crashed_with

STARVING_AT = 40  # seconds after its arrival


def test_a_server_is_held_for_a_starving_suspect_only_for_a_while_and_then_open_for_as_long():
    """It was closed until the suspect's wait ended, three minutes later, while one long stream ran."""
    service = crashed_with("suspect")
    service.send("long", at=2.0)
    service.send("suspect", at=3.0)
    held_at = 3.0 + STARVING_AT
    service.send("late", at=held_at)
    assert service.running() == {"long"}
    assert due_at(service.state) == held_at + HOLD_SECONDS
    opened_at = held_at + HOLD_SECONDS
    service.post(ev.Tick(opened_at))
    assert service.running() == {"long", "late"}
    service.end("late", at=opened_at + 1)
    service.send("later", at=opened_at + HOLD_SECONDS - 4)
    assert service.running() == {"long", "later"}, "it is not held again yet"
    service.end("later", at=opened_at + HOLD_SECONDS - 3)
    service.end("long", at=opened_at + HOLD_SECONDS - 2)
    assert service.running() == set(), "and no suspect runs alone"
    service.post(ev.Tick(opened_at + HOLD_SECONDS - 1))
    assert service.running() == set() and due_at(service.state) == opened_at + HOLD_SECONDS == 103.0


def test_a_hold_ends_with_the_wait_it_is_for():
    service = crashed_with("suspect")
    service.send("long", at=2.0)
    service.send("suspect", at=3.0)
    service.send("late", at=3.0 + STARVING_AT)
    service.post(ev.Cancel(service.tickets["suspect"], at=45.0))
    assert service.running() == {"long", "late"}


def test_suspects_run_one_after_the_other_without_a_pause_while_nobody_else_waits():
    service = crashed_with("one", "two")
    service.send("one", at=2.0)
    service.send("two", at=2.0)
    assert service.running() == {"one"}
    service.end("one", at=5.0)
    assert service.running() == {"two"}


def test_between_two_suspects_those_who_waited_get_the_model_for_as_long():
    service = crashed_with("one", "two")
    service.send("one", at=2.0)
    service.send("two", at=3.0)
    service.send("other", at=4.0)
    service.end("one", at=12.0)
    assert service.running() == {"other"}, "although it came later"
    service.end("other", at=13.0)
    assert service.running() == set()
    service.send("other", at=14.0)
    service.end("other", at=15.0)
    service.post(ev.Tick(22.0))
    assert service.running() == {"two"}


def test_the_load_after_a_suspects_crash_counts_as_time_taken_from_others():
    """Others got one answer between two crashes, each followed by a load."""
    service = crashed_with("killer", "another killer")
    service.send("killer", at=2.0)
    service.send("another killer", at=3.0)
    service.send("other", at=4.0)
    effects = service.post(ev.Exited(2, "ended by SIGSEGV", 5.0, exit_code=-SIGSEGV))
    (spawn,) = (effect for effect in effects if isinstance(effect, Spawn))
    service.post(ev.Tick(30.0), ev.Ready(spawn.server.id, 9001, at=32.0))
    for second in range(32, 62):  # it was closed from 2 to 32
        assert service.running() == {"other"}
        service.end("other", at=second + 0.5)
        assert service.running() == set()
        service.send("other", at=second + 0.6)
    service.end("other", at=62.0)
    assert service.running() == {"another killer"}


@pytest.mark.parametrize("seconds", [0.5, 5, 45, 70, 1000])
def test_whatever_suspects_a_client_sends_others_have_half_of_the_model(seconds: float):
    """`seconds`: how long each suspect runs. Another client sends short requests, one after the other."""
    names = [f"suspect {number}" for number in range(12)]
    service = Service()
    for number, pair in enumerate(zip(names[::2], names[1::2], strict=True)):
        for name in pair:
            service.send(name, at=float(number - 10))
        service.crash(at=number - 9.5)
    sent = dict.fromkeys(names, 1.0)
    for name in names:
        service.send(name, at=1.0)
    began, waits, answered = {}, [], 0
    for second in range(1, 600):
        for name in service.running() & began.keys():
            if name != "other" and second - began[name] >= seconds:
                service.end(name, at=float(second))
        service.post(ev.Tick(float(second)))
        if "other" not in sent:
            sent["other"] = float(second)
            service.send("other", at=float(second))
        for name in service.running() - began.keys():
            began[name] = second
        if "other" in service.running():
            waits.append(second - sent.pop("other"))
            answered += 1
            service.end("other", at=second + 0.9)
            del began["other"]
    assert max(waits) <= HOLD_SECONDS + EXCLUSIVE_SECONDS + 1
    assert answered >= 0.5 * 600 - (HOLD_SECONDS + EXCLUSIVE_SECONDS)


def test_of_several_servers_one_at_a_time_is_closed():
    service = Service(Replicas(2, 2))
    service.send("one", at=0.0)
    service.send("two", at=0.0)
    service.crash(at=1.0)
    service.crash(at=1.5)  # each was on a server of its own
    service.send("long 1", at=3.0)
    service.send("long 2", at=3.0)
    service.send("one", at=4.0)
    service.send("two", at=4.0)
    service.post(ev.Tick(4.0 + STARVING_AT))
    assert sum(server.exclusive_ticket is not None for server in service.state.servers) == 1
    service.send("other", at=45.0)
    assert service.running() == {"long 1", "long 2", "other"}
