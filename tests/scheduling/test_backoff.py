"""Backoff of models in a crash loop, and the Retry-After of rejected requests."""

from __future__ import annotations

from dataclasses import replace

from app.entities.model import Model
from app.entities.refusal import Reason
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.backoff import MAX_BACKOFF_SECONDS, Backoff, with_failure
from app.use_cases.scheduling.demand import expected_load_seconds
from app.use_cases.scheduling.effects import Done, Refuse
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import Play, a_model
from tests.scheduling.test_schedule import spawned


def crash_loop(*models: Model) -> tuple[Play, list[Refuse]]:
    """Requests for these models, one a second; each load that starts crashes. The state, and the refusals."""
    play, refused = Play(), []
    for number, model in enumerate(models):
        at = float(number)
        effects = play.ask(model, at=at)
        if not play.state.servers:
            refused += [effect for effect in effects if isinstance(effect, Refuse)]
            continue
        (server,) = play.state.servers
        effects = play.post(ev.Exited(server.id, "it crashed", at=at + 0.5))
        refused += [effect for effect in effects if isinstance(effect, Refuse)]
    return play, refused


def test_a_model_in_a_crash_loop_is_started_after_ever_longer_pauses():
    _, refused = crash_loop(*[a_model()] * 6)
    # Crashes at 0.5 and 1.5; a pause of 2 s rejects the requests at 2 and 3; a crash at 4.5, then a pause of 4 s.
    assert [effect.refusal.retry_after_seconds for effect in refused] == [None, None, 1.5, 0.5, None, 3.5]
    assert "failed 2 times in a row, last: it crashed" in refused[2].refusal.detail
    assert {effect.refusal.reason for effect in refused} == {Reason.LOAD_FAILED}


def test_backoff_applies_to_one_file_only():
    play, _ = crash_loop(*[a_model()] * 3)
    assert spawned(play.ask(a_model("b"), at=3.0)) == ["b"]
    assert spawned(play.ask(replace(a_model(), created=7), at=3.0)) == ["a"], "the file was replaced"


def test_ordering_a_load_ends_the_backoff():
    play, _ = crash_loop(*[a_model()] * 3)
    assert spawned(play.ask(a_model(), at=3.0, command=ev.Load)) == ["a"]
    play.post(ev.Exited(3, "it crashed", at=3.5))
    assert spawned(play.ask(a_model(), at=3.6)) == ["a"], "earlier failures no longer count"


def test_another_engine_ends_the_backoff():
    """It may have been installed because of the failures: models stayed in backoff with the repaired one."""
    play, _ = crash_loop(*[a_model()] * 3)
    play.post(ev.EngineReplaced(at=3.0))
    assert (play.state.backoffs, play.state.failures) == ({}, {})
    assert spawned(play.ask(a_model(), at=3.0)) == ["a"]


def test_no_backoff_is_longer_than_a_minute():
    play, now, pauses = Play(), 0.0, []
    for _ in range(9):
        play.ask(a_model(), at=now)
        (server,) = play.state.servers
        play.post(ev.Exited(server.id, "it crashed", at=now))
        pauses.append(play.state.backoffs["a"].until - now)
        now = play.state.backoffs["a"].until
    assert pauses == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_server_that_completed_a_request_is_started_again_at_once():
    play = Play()
    for number in range(5):
        at = 10.0 * number
        play.ask(a_model(), at=at)
        (server,) = play.state.servers
        ticket = play.state.waiting[0].ticket
        play.post(ev.Ready(server.id, 9001, at=at), ev.Release(ticket, at=at + 1.0))
        play.post(ev.Exited(server.id, "it was killed", at=at + 2.0))
    assert spawned(play.ask(a_model(), at=50.0)) == ["a"]


def test_a_server_that_crashes_in_mid_answer_does_not_count_for_the_backoff():
    """Others got 1 of 44 answers while one client sent a request that crashed the engine once a second."""
    play = Play()
    for number in range(2):
        at = float(number)
        play.ask(a_model(), at=at)
        (server,) = play.state.servers
        ticket = play.state.waiting[0].ticket
        play.post(ev.Ready(server.id, 9001, at=at + 0.1), ev.Exited(server.id, "it crashed", at=at + 0.2))
        play.post(ev.Release(ticket, at=at + 0.3, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert spawned(play.ask(a_model(), at=2.0)) == ["a"]


def test_retry_after_is_the_remaining_load_time_of_a_loading_model():
    play = Play(SchedulingLimits(max_waiting=1))
    play.ask(a_model(gib=12))
    (refused,) = [e for e in play.ask(a_model(gib=12), at=2.0) if isinstance(e, Refuse)]
    known = expected_load_seconds({}, a_model(gib=12))
    assert refused.refusal.retry_after_seconds == known - 2.0
    play.post(ev.Ready(1, 9001, at=9.0), ev.Exited(1, "killed", at=10.0))
    play.ask(a_model(gib=12), at=20.0)
    (refused,) = [e for e in play.ask(a_model(gib=12), at=21.0) if isinstance(e, Refuse)]
    assert refused.refusal.retry_after_seconds == 8.0, "the last load took nine seconds"


def test_retry_after_includes_the_load_that_is_in_the_way():
    play = Play(SchedulingLimits(max_waiting_per_model=1), total_gib=16)
    play.ask(a_model("first", gib=12))
    play.ask(a_model("second", gib=12), at=1.0)
    (refused,) = [e for e in play.ask(a_model("second", gib=12), at=2.0) if isinstance(e, Refuse)]
    one = expected_load_seconds({}, a_model(gib=12))
    assert refused.refusal.retry_after_seconds == (one - 2.0) + one


def test_a_request_that_was_never_sent_does_not_reset_the_backoff():
    """For example one with a prompt longer than the context: it does not show what the next one does to the engine."""
    play = Play()
    for number, at in ((1, 0.0), (2, 1.0)):
        play.ask(a_model(), at=at)
        play.post(ev.Ready(number, 9000, at=at + 0.1))
        (server,) = play.state.servers
        play.post(*(ev.Release(ticket, at=at + 0.2, ending=ev.Ending.NOT_SENT) for ticket in server.leases))
        (server,) = play.state.servers
        assert not server.leases and not server.abandoned_slots
        play.post(ev.Exited(number, "it crashed", at=at + 0.3))
    assert play.state.backoffs["a"].consecutive_failures == 2


def test_an_unload_during_a_backoff_completes():
    """There is nothing to unload: only requests that need a server are rejected."""
    play, _ = crash_loop(*[a_model()] * 3)
    assert play.ask(a_model(), at=3.0, command=ev.Unload) == [Done(4)]


def test_failures_of_an_earlier_file_do_not_count():
    play, refused = crash_loop(a_model(), a_model(), replace(a_model(), created=7), replace(a_model(), created=7))
    assert [effect.refusal.detail for effect in refused] == ["it crashed"] * 4, "each was tried"
    assert play.state.backoffs["a"].consecutive_failures == 2


def test_a_model_that_has_crashed_for_days_is_still_delayed_by_a_minute():
    """The exponent is limited: 2.0 ** 1024 is more than a float can be."""
    play = Play()
    play.ask(a_model(), at=0.0)
    (server,) = play.state.servers
    backoffs = with_failure({server.model.name: Backoff(server.model, 2000, 0.0)}, server, at=1.0)
    assert backoffs[server.model.name].until == 1.0 + MAX_BACKOFF_SECONDS
