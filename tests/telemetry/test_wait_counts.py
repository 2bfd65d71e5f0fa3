"""How long requests have waited, by what for."""

from __future__ import annotations

import pytest

from app.use_cases.scheduling import events as ev
from tests.helpers.builders import a_model
from tests.helpers.counted_play import CountedPlay
from workers.telemetry.wait_counts import WaitCounts


class Counted(CountedPlay):
    def __init__(self) -> None:
        super().__init__(WaitCounts)

    def waited(self, model: str = "a") -> dict[str, float]:
        [family] = self.registry.collect()
        samples = [each for each in family.samples if each.name.endswith("_total") and each.labels["model"] == model]
        return {each.labels["cause"]: pytest.approx(each.value) for each in samples}


def test_a_wait_is_counted_by_what_it_was_for():
    play = Counted()
    play.ask(a_model(slots=1), at=10.0)
    play.post(ev.Ready(1, 9001, at=13.0))
    play.ask(a_model(slots=1), at=14.0)
    play.post(ev.Release(1, at=16.0))
    assert play.waited() == {"load": 3.0, "slot": 2.0}


def test_waits_shorter_than_the_interval_are_counted_to_the_end():
    play = Counted()
    play.ask(a_model(slots=1), at=0.0)
    play.post(ev.Ready(1, 9001, at=0.1))
    for number in range(1, 6):  # each waits a tenth of a second
        play.ask(a_model(slots=1), at=float(number))
        play.post(ev.Release(number, at=number + 0.1))
    assert play.waited() == {"load": 0.1, "slot": 0.5}


def test_all_who_wait_are_counted_and_each_from_its_arrival():
    play = Counted()
    for at in (0.0, 0.1, 0.2):
        play.ask(a_model(slots=4), at=at)
    play.post(ev.Tick(1.0), ev.Cancel(2, at=1.1), ev.Ready(1, 9001, at=1.2))
    assert play.waited() == {"load": 1.2 + 1.0 + 1.0}
