"""Fairness among API keys: each rule as a list of events."""

from __future__ import annotations

from app.entities.model import Model
from app.entities.refusal import Reason
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import Play, a_model, a_placement_request, booked
from tests.scheduling.test_schedule import grants, refusals, spawned

BUSY, QUIET = "busy", "quiet"


class PlayWithKeys(Play):
    def ask_with(self, key: str, model: Model, at: float = 0.0) -> list[Effect]:
        self._ticket += 1
        return self.post(
            ev.Acquire(self._ticket, model, at, at + 300, a_placement_request(booked(model)), key=key),
        )

    def answer_order(self, count: int, at: float) -> list[int]:
        """Tickets in the order in which they get the only slot, each released as soon as it was granted."""
        order: list[int] = []
        (held,) = self.state.servers[0].leases
        for number in range(count):
            (held,) = grants(self.post(ev.Release(held, at + number)))
            order.append(held)
        return order


def with_one_slot_taken() -> PlayWithKeys:
    play = PlayWithKeys()
    play.ask_with(BUSY, a_model(slots=1))
    play.post(ev.Ready(1, 9001, at=0.5))
    return play


def test_a_single_request_waits_for_one_request_of_a_key_with_a_hundred():
    play = with_one_slot_taken()
    for _ in range(100):
        play.ask_with(BUSY, a_model(slots=1), at=1.0)
    play.ask_with(QUIET, a_model(slots=1), at=2.0)  # ticket 102
    assert play.answer_order(4, at=3.0) == [2, 102, 3, 4]


def test_a_key_that_sends_one_request_after_the_other_gets_every_second_slot():
    """Memory of whose turn it was outlives the moment in which the key has nothing in the queue."""
    play = with_one_slot_taken()
    for _ in range(50):
        play.ask_with(BUSY, a_model(slots=1), at=1.0)
    held, got = 1, []
    for number in range(6):
        if QUIET not in [waiter.key for waiter in play.state.waiting]:
            play.ask_with(QUIET, a_model(slots=1), at=2.0 + number)
        keys = {waiter.ticket: waiter.key for waiter in play.state.waiting}
        (held,) = grants(play.post(ev.Release(held, 2.5 + number)))
        got.append(keys[held])
    assert got == [BUSY, QUIET] * 3


def test_requests_of_one_key_keep_their_order():
    play = with_one_slot_taken()
    for key in (BUSY, QUIET, BUSY, QUIET, BUSY):
        play.ask_with(key, a_model(slots=1), at=1.0)
    assert play.answer_order(5, at=2.0) == [2, 3, 4, 5, 6]


def test_a_full_queue_rejects_the_newest_request_of_the_key_that_fills_it():
    play = PlayWithKeys(SchedulingLimits(max_waiting_per_model=4, max_waiting=4))
    play.ask_with(BUSY, a_model(slots=1))
    play.post(ev.Ready(1, 9001, at=0.5))
    for _ in range(4):
        play.ask_with(BUSY, a_model(slots=1), at=1.0)  # tickets 2 to 5
    assert refusals(play.ask_with(QUIET, a_model(slots=1), at=2.0)) == {5: Reason.OVERLOADED}
    assert refusals(play.ask_with(BUSY, a_model(slots=1), at=3.0)) == {7: Reason.OVERLOADED}


def test_loads_are_started_for_keys_in_turn():
    """One key asks for eight models; the one model of the other is loaded second."""
    play = PlayWithKeys(SchedulingLimits(max_loaded=1, min_residency_seconds=0))
    first = play.ask_with(BUSY, a_model("m0"))
    for number in range(1, 8):
        play.ask_with(BUSY, a_model(f"m{number}"), at=1.0)
    play.ask_with(QUIET, a_model("wanted"), at=2.0)
    assert spawned(first) == ["m0"]
    loads, at = [], 3.0
    for number in range(1, 4):
        effects = play.post(ev.Ready(number, 9000 + number, at))
        (ticket,) = grants(effects)
        play.post(ev.Release(ticket, at + 1))
        loads += spawned(play.post(ev.Exited(number, "", at + 2), ev.Tick(at + 2.5)))
        at += 3
    assert loads == ["wanted", "m1", "m2"]
