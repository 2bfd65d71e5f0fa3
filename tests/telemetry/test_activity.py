"""The last requests and the last hour."""

from __future__ import annotations

import pytest

from app.use_cases.reporting.last_hour import ActivityCounts, last_hour, wait_range
from app.use_cases.reporting.recent_requests import RequestRecord, requests_report, tokens_per_second
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Stop, StopReason
from tests.helpers.builders import Play, a_model, replace
from workers.telemetry import activity
from workers.telemetry.activity import MAX_RECORDS, Activity

RECORD = RequestRecord(1.0, "a", "/v1/completions", 200, 0.0, 1.0, 0.5, 10, 20, 40.0, "alice")


class Clock:
    """Minutes of the monotonic clock."""

    minute = 1000

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(activity, "_minute_now", lambda: self.minute)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def hour(recorder: Activity) -> dict[str, object]:
    return last_hour(recorder.last_hour().values())


def test_requests_are_counted_for_an_hour_and_then_forgotten(clock: Clock):
    recorder = Activity()
    recorder.note(RECORD)
    clock.minute += 59
    recorder.note(replace(RECORD, model="b", wait_seconds=None, prompt_tokens=None, completion_tokens=None, status=503))
    assert hour(recorder) == {
        "requests": 2,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "loads": 0,
        "evictions": 0,
        "wait_median_seconds": 0.0,
        "wait_p95_seconds": 0.0,
    }
    clock.minute += 1
    assert (hour(recorder)["requests"], hour(recorder)["wait_median_seconds"]) == (1, None)
    clock.minute += 59
    assert recorder.last_hour() == {}


def test_nothing_is_kept_of_models_that_were_busy_long_ago(clock: Clock):
    recorder = Activity()
    for number in range(1000):
        recorder.note(replace(RECORD, model=f"m{number}"))
        clock.minute += 1
    assert len(recorder.last_hour()) < 61
    assert len(recorder.records()) == MAX_RECORDS


def test_loads_and_evictions_are_counted(clock: Clock):
    recorder, play = Activity(), Play()
    play.ask(a_model("a"))
    recorder.count_step(play.state, ev.Ready(1, 9001, 1.0), [])
    play.post(ev.Ready(1, 9001, 1.0))
    recorder.count_step(play.state, ev.Ready(1, 9001, 1.0), [])  # after an unload was withdrawn, say: no load
    for why in StopReason:
        recorder.count_step(play.state, ev.Tick(2.0), [Stop(1, why, "")])
    drained_for_b = replace(play.state, servers=tuple(replace(s, drained_for="b") for s in play.state.servers))
    recorder.count_step(drained_for_b, ev.Tick(3.0), [Stop(1, StopReason.DRAINED, "")])
    assert (hour(recorder)["loads"], hour(recorder)["evictions"]) == (1, 2)


@pytest.mark.parametrize("seconds", [0.02, 0.3, 7.0, 299.0])
def test_waits_are_told_within_an_eighth(seconds: float):
    counts = ActivityCounts()
    counts.waits[wait_range(seconds)] += 1
    told = last_hour([counts])["wait_median_seconds"]
    assert told == pytest.approx(seconds, rel=0.125)


def test_the_median_is_of_half_and_p95_of_nearly_all():
    counts = ActivityCounts()
    for seconds in [0.0] * 60 + [1.0] * 30 + [100.0] * 10:
        counts.waits[wait_range(seconds)] += 1
    told = last_hour([counts])
    assert told["wait_median_seconds"] == 0.0
    assert told["wait_p95_seconds"] == pytest.approx(100.0, rel=0.125)


def test_keys_are_named_for_admins_only():
    assert [each["key"] for names in (True, False) for each in requests_report([RECORD], names)] == ["alice", None]


def test_fifty_requests_are_listed():
    assert len(requests_report([RECORD] * 60, names_keys=True)) == 50


@pytest.mark.parametrize(("tokens", "seconds"), [(None, 1.0), (1, 0.001), (5, None), (5, 0.0), (5, -1.0)])
def test_a_speed_that_says_nothing_is_none(tokens: int | None, seconds: float | None):
    assert tokens_per_second(tokens, seconds) is None
