"""Models that are pinned and unpinned by order, each rule as a list of events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.model import Model
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pin_orders import Pinned, is_pinned
from tests.helpers.builders import Play, a_model
from tests.scheduling.test_schedule import refusals, stopped

LARGE, OTHER = a_model("large", gib=10), a_model("other", gib=10)


def play_with(model: Model, **limits: float) -> Play:
    play = Play(SchedulingLimits(**limits), total_gib=16)  # type: ignore[arg-type]
    play.up(model)
    return play


def reload(play: Play, *models: Model, at: float) -> None:
    play.post(ev.Reconfigured(play.state.limits, {model.name: model for model in models}, {}, at))


def test_a_model_pinned_by_order_is_neither_evicted_nor_unloaded_when_idle():
    play = play_with(LARGE, ttl_seconds=60)
    play.post(Pinned(LARGE, True, at=1.0))
    assert refusals(play.ask(OTHER, at=50.0)) == {2: Reason.INSUFFICIENT_MEMORY}
    play.post(ev.Tick(at=1000.0))
    assert [server.state for server in play.state.servers] == [ServerState.READY]


def test_an_order_to_pin_outlasts_a_ttl_and_a_keep_alive():
    play = play_with(replace(LARGE, ttl_seconds=5.0))
    play.post(Pinned(LARGE, True, at=1.0))
    assert stopped(play.post(ev.Tick(at=100.0))) == []
    play.ask(LARGE, at=101.0)
    assert stopped(play.post(ev.Release(2, at=102.0, keep_alive_seconds=0.0))) == []


@pytest.mark.parametrize("is_set", [False, True])
def test_an_unpinned_model_is_unloaded_when_its_time_is_over(is_set: bool):
    model = replace(LARGE, pin=is_set)
    play = play_with(model, ttl_seconds=60)
    play.post(Pinned(model, True, at=1.0), ev.Tick(at=100.0))
    assert stopped(play.post(Pinned(model, False, at=101.0))) == [1]


def test_a_load_that_waits_takes_the_memory_of_an_unpinned_model():
    play = play_with(replace(LARGE, pin=True))
    play.post(Pinned(LARGE, False, at=100.0))
    assert stopped(play.ask(OTHER, at=101.0)) == [1]


def test_a_load_that_waits_for_a_model_is_decided_again_when_that_is_pinned():
    play = Play(total_gib=16)
    play.ask(LARGE)
    play.post(ev.Ready(1, 9001, 0.0))
    play.ask(OTHER, at=1.0)
    assert refusals(play.post(Pinned(LARGE, True, at=2.0))) == {2: Reason.INSUFFICIENT_MEMORY}


def test_an_order_lasts_over_a_reload_that_leaves_the_model_as_it_is():
    play = play_with(LARGE)
    play.post(Pinned(LARGE, True, at=1.0))
    reload(play, LARGE, OTHER, at=2.0)
    assert is_pinned(play.state.pin_orders, LARGE)


@pytest.mark.parametrize("change", [{"priority": 1}, {"pin": True}, {"created": 5}, None])
def test_an_order_ends_with_a_reload_that_changes_or_removes_the_model(change: dict[str, int] | None):
    play = play_with(LARGE)
    play.post(Pinned(LARGE, False, at=1.0))
    reload(play, *([] if change is None else [replace(LARGE, **change)]), at=2.0)  # type: ignore[arg-type]
    assert play.state.pin_orders == {}
