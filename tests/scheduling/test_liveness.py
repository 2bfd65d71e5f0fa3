"""Servers that do not respond: checked while they have requests, and replaced."""

from __future__ import annotations

import pytest

from app.entities.placement import Outcome
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import CheckServer, Effect, Grant, Spawn, Stop, StopReason
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_model

LIMITS = SchedulingLimits(hang_timeout_seconds=30, stall_timeout_seconds=300)


def a_busy_play(requests: int = 1, slots: int = 1) -> Play:
    """A server that became ready at 0 and whose first requests are running; further ones wait."""
    play = Play(LIMITS, checks_liveness=True)
    for _ in range(requests):
        play.ask(a_model(slots=slots))
    play.post(ev.Ready(1, 9001, at=0.0))
    return play


def checked(play: Play, until: float, **found: object) -> list[Effect]:
    """The effects other than checks up to this time, while each check finds this."""
    others: list[Effect] = []
    while (at := due_at(play.state)) is not None and at <= until:
        effects = play.post(ev.Tick(at))
        for effect in effects:
            if isinstance(effect, CheckServer):
                effects += play.post(ev.ServerChecked(effect.server, None, at, at + 0.5, **found))
        others += [effect for effect in effects if not isinstance(effect, CheckServer)]
    return others


def stops(effects: list[Effect]) -> list[tuple[int, StopReason]]:
    return [(effect.server, effect.why) for effect in effects if isinstance(effect, Stop)]


def test_a_busy_server_is_checked_every_few_seconds_and_an_idle_one_never():
    play = a_busy_play()
    assert due_at(play.state) == 5.0
    assert play.post(ev.Tick(at=5.0)) == [CheckServer(1, counts_slots=False)]
    play.post(ev.ServerChecked(1, None, 5.0, 5.0, has_worked=True))
    assert due_at(play.state) == 10.0
    play.post(ev.Release(1, at=6.0))
    assert due_at(play.state) == 6.0 + LIMITS.ttl_seconds


def test_a_server_that_does_not_respond_is_stopped_and_started_anew_for_those_who_wait():
    """Its requests were answered 504 and all later ones 503, for ever."""
    play = a_busy_play(requests=3)
    assert not stops(checked(play, until=34.9, is_listening=False))
    assert stops(checked(play, until=40.0, is_listening=False)) == [(1, StopReason.HUNG)]
    assert play.state.endings[1].is_hung
    effects = play.post(ev.Exited(1, "ended by SIGKILL", at=40.0))
    assert [effect.server.id for effect in effects if isinstance(effect, Spawn)] == [2]
    assert play.post(ev.Ready(2, 9002, at=41.0)) == [Grant(2, 2)]
    assert play.state.backoffs == {} == play.state.failures


def test_a_stop_for_not_responding_is_a_decision_with_its_reason():
    play = a_busy_play(requests=3)
    checked(play, until=40.0, is_listening=False)
    (decided,) = [each for each in play.decided if each.decision.outcome is Outcome.STOP]
    assert decided.decision.reason == (
        "its llama-server (server 1) has not responded for 30 s: stopped, with 1 running and 2 waiting requests"
    )


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_long_prompt_is_not_taken_for_a_hang(is_listening: bool):
    """On a slow CPU a batch takes minutes, in which /slots is not answered."""
    play = a_busy_play()
    assert not checked(play, until=3000.0, has_worked=True, is_listening=is_listening)


def test_a_server_that_only_listens_has_as_long_as_a_load_without_progress():
    """It may be waiting for a GPU, or for another machine."""
    play = a_busy_play()
    assert not stops(checked(play, until=300.0))
    assert stops(checked(play, until=310.0)) == [(1, StopReason.HUNG)]


def test_one_sign_of_life_starts_the_count_anew():
    play = a_busy_play()
    checked(play, until=30.0, is_listening=False)
    play.post(ev.ServerChecked(1, busy=1, requested_at=30.0, at=30.1))
    assert not stops(checked(play, until=60.0, is_listening=False))
    assert stops(checked(play, until=70.0, is_listening=False)) == [(1, StopReason.HUNG)]


@pytest.mark.parametrize("found", [{}, {"has_worked": True}, {"is_listening": False}])
def test_a_server_whose_slots_should_be_free_is_stopped_if_it_does_not_count_them(found: dict[str, bool]):
    """It was asked again for ever. What it computes is for nobody."""
    play = a_busy_play(requests=2)
    play.post(ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert not stops(checked(play, until=30.0, **found))
    assert stops(checked(play, until=36.0, **found)) == [(1, StopReason.HUNG)]


def test_no_request_is_sent_to_a_server_while_it_does_not_respond():
    play = a_busy_play(slots=2)
    checked(play, until=5.0, is_listening=False)
    assert play.ask(a_model(slots=2), at=6.0) == []
    assert play.post(ev.ServerChecked(1, busy=1, requested_at=7.0, at=7.0)) == [Grant(2, 1)]


def test_an_answer_that_arrives_after_the_stop_changes_nothing():
    play = a_busy_play()
    checked(play, until=40.0, is_listening=False)
    assert play.post(ev.ServerChecked(1, busy=0, requested_at=39.0, at=40.1)) == []
    assert play.state.servers[0].state is ServerState.STOPPING
    play.post(ev.Release(1, at=40.2, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert not [effect for effect in checked(play, until=60.0) if isinstance(effect, CheckServer)]
    assert due_at(play.state) is None
