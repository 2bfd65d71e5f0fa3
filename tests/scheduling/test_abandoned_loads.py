"""Loads that nobody waits for any more: they go on, unless another request needs their room."""

from __future__ import annotations

import pytest

from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Spawn, Stop, StopReason
from tests.helpers.builders import Play, a_model, replace

LARGE = a_model("large", gib=10)
OTHER = a_model("other", gib=10)


def a_load(command: type = ev.Acquire) -> Play:
    """`large` is loading at 0; if a client waits for it, it disconnects at 1."""
    play = Play()
    play.ask(LARGE, command=command)
    play.post(ev.Cancel(1, at=1.0))
    return play


def stopped(effects: list[Effect]) -> list[tuple[int, StopReason, str]]:
    return [(each.server, each.why, each.detail) for each in effects if isinstance(each, Stop)]


def test_an_abandoned_load_is_stopped_for_a_request_that_needs_its_room():
    """The request waited for a load that nobody wanted: 6.1 s were seen."""
    play = a_load()
    assert stopped(play.ask(OTHER, at=2.0)) == [(1, StopReason.EVICTED, "for other")]
    effects = play.post(ev.Exited(1, "stopped", at=2.5))
    assert [effect.server.model.name for effect in effects if isinstance(effect, Spawn)] == ["other"]


def test_it_is_stopped_as_soon_as_it_is_abandoned():
    play = Play()
    play.ask(LARGE)
    assert not stopped(play.ask(OTHER, at=1.0))
    assert stopped(play.post(ev.Cancel(1, at=2.0))) == [(1, StopReason.EVICTED, "for other")]


def test_an_abandoned_load_goes_on_if_there_is_room_for_both():
    play = a_load()
    assert not stopped(play.ask(a_model("small", gib=1), at=2.0))


@pytest.mark.parametrize(("progress", "is_stopped"), [(0.79, True), (0.8, False), (None, True)])
def test_a_load_that_has_nearly_finished_goes_on(progress: float | None, is_stopped: bool):
    play = a_load()
    play.post(ev.Progress(1, at=1.5, load_progress=progress))
    assert bool(stopped(play.ask(OTHER, at=2.0))) == is_stopped


@pytest.mark.parametrize(("waited", "is_stopped"), [(7.9, True), (8.0, False), (11.0, False)])
def test_without_a_reported_progress_the_time_of_the_last_load_decides(waited: float, is_stopped: bool):
    play = Play()
    play.ask(LARGE)
    play.post(ev.Ready(1, 9001, at=10.0), ev.Release(1, at=10.0))
    play.ask(LARGE, at=11.0, command=ev.Unload)
    play.post(ev.Exited(1, "stopped", at=11.0))
    play.ask(LARGE, at=20.0)
    play.post(ev.Cancel(3, at=21.0))
    assert bool(stopped(play.ask(OTHER, at=20.0 + waited))) == is_stopped


def test_a_first_load_without_a_reported_progress_is_not_taken_for_a_finished_one():
    """By its size it should have taken 10.7 s: from a slow disk that is a tenth of it, and the rest was waited for."""
    assert stopped(a_load().ask(OTHER, at=60.0)) == [(1, StopReason.EVICTED, "for other")]


def test_a_load_by_order_and_that_of_a_pinned_model_are_not_abandoned():
    assert not stopped(a_load(ev.Load).ask(OTHER, at=2.0))
    play = Play()
    play.ask(replace(LARGE, pin=True))
    play.post(ev.Cancel(1, at=1.0))
    assert not stopped(play.ask(OTHER, at=2.0))
