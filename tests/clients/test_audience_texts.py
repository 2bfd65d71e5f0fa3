"""What many viewers get is made once."""

from __future__ import annotations

import itertools

import pytest

from workers.clients import audience_texts
from workers.clients.audience_texts import AudienceTexts

FACTS = (object(), object())


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(audience_texts, "time", clock)
    return clock


class Viewers:
    """Of one service; each text that is made has the next number."""

    def __init__(self) -> None:
        self._texts = AudienceTexts()
        self._numbers = itertools.count(1)

    def look(self, audience: object = "all", facts: tuple[object, ...] = FACTS, min_age: float = 1.0) -> int:
        return int(self._texts.get(audience, facts, lambda: b"%d" % next(self._numbers), min_age, max_age=5.0))


def test_all_who_may_see_the_same_share_a_text(clock: Clock):
    viewers = Viewers()
    assert [viewers.look("all"), viewers.look("all"), viewers.look("few"), viewers.look("all")] == [1, 1, 2, 1]


def test_a_change_is_shown_once_the_last_text_is_old_enough(clock: Clock):
    viewers, changed = Viewers(), (FACTS[0], object())
    viewers.look()
    clock.now += 0.9
    assert viewers.look(facts=changed) == 1
    assert viewers.look(facts=changed, min_age=0.0) == 2
    clock.now += 1.1
    assert viewers.look(facts=changed) == 2
    assert viewers.look(facts=FACTS) == 3


def test_without_a_change_a_text_is_made_again_when_it_is_too_old(clock: Clock):
    viewers = Viewers()
    viewers.look()
    clock.now += 4.9
    assert viewers.look() == 1
    clock.now += 0.1
    assert viewers.look() == 2


def test_what_is_equal_but_not_the_same_has_changed(clock: Clock):
    """To compare the pool's state by value would take as long as making the text."""
    viewers = Viewers()
    viewers.look(facts=([1],))
    assert viewers.look(facts=([1],), min_age=0.0) == 2


def test_texts_that_nobody_asks_for_are_forgotten(clock: Clock):
    viewers = Viewers()
    for number in range(1000):
        viewers.look(number)
        clock.now += 1.0
    assert len(viewers._texts._made) < 62
