"""The reasons of waiting requests, from the scheduler's own decisions."""

from __future__ import annotations

from dataclasses import replace

from app.use_cases.reporting.waiting import queue_report
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import Play, a_model
from tests.helpers.gpu_play import GpuPlay, Hardware

ONE = Hardware({"GPU-a": 6})  # a model takes some 4.6 GiB


def play_on(hardware: Hardware, **limits: float) -> GpuPlay:
    play = GpuPlay(replace(hardware), SchedulingLimits(**limits))  # type: ignore[arg-type]
    play.post(play.polled(at=-1.0))
    return play


def reasons(play: Play, now: float) -> list[tuple[object, ...]]:
    return [tuple(each.values()) for each in queue_report(play.state, now)]


def test_a_model_that_loads_tells_its_progress_or_the_time_left():
    play = Play()
    play.ask(a_model("a"))
    play.ask(a_model("a"), at=1.0)
    assert reasons(play, now=4.0) == [("a", 2, 4.0, "load", "loading")]
    play.post(ev.Progress(1, 2.0, 0.64))
    assert reasons(play, now=4.0) == [("a", 2, 4.0, "load", "loading, 64 %")]


def test_the_last_load_tells_how_much_is_left_of_a_load_without_progress():
    play = Play()
    play.ask(a_model("a"))
    play.post(ev.Ready(1, 9001, 12.0), ev.Release(1, 12.0))
    play.ask(a_model("a"), at=13.0, command=ev.Unload)
    play.post(ev.Exited(1, "", 14.0))
    play.ask(a_model("a"), at=20.0)
    assert reasons(play, now=23.0) == [("a", 1, 3.0, "load", "loading, about 9 s left")]
    assert reasons(play, now=33.0) == [("a", 1, 13.0, "load", "loading")]


def test_requests_wait_for_a_free_slot():
    play = Play()
    play.up(a_model("a", slots=1))
    play.ask(a_model("a", slots=1), at=1.0)
    play.ask(a_model("a", slots=1), at=2.0)
    assert reasons(play, now=5.0) == [("a", 1, 3.0, "slot", "waits for a free slot")]


def test_a_load_waits_for_a_busy_model_and_says_how_long_its_own_load_took():
    play = play_on(ONE)
    play.loaded("b")
    play.request("a", at=100.0)  # evicts b
    play.post(ev.Exited(1, "", 101.0), play.polled(101.0), ev.Tick(101.1))
    (server,) = play.state.servers
    play.post(ev.Ready(server.id, 9002, 113.0))
    play.request("b", at=120.0)
    assert reasons(play, now=125.0) == [("b", 1, 5.0, "memory", "waits for a to finish, then about 1 s to load")]


def test_a_load_waits_for_the_exit_of_a_model_that_is_evicted_for_it():
    play = play_on(ONE)
    play.loaded("b")
    play.request("a", at=100.0)
    assert reasons(play, now=100.5) == [("a", 1, 0.5, "memory", "waits for b to exit")]


def test_a_load_says_that_the_model_in_its_way_is_protected():
    play = play_on(ONE, min_residency_seconds=20.0)
    play.loaded("b")
    for number in range(8):
        play.request("b", at=0.5 + number / 10)
        play.post(ev.Release(play._ticket, 0.6 + number / 10))
    play.request("a", at=2.0)
    (entry,) = queue_report(play.state, 2.0)
    assert entry["cause"] == "protected"
    at_most = play.state.evaluation.decided[0].protected_until - 2.0  # type: ignore[union-attr,operator]
    assert entry["reason"] == (f"waits for b, in frequent use and protected from eviction for {at_most:.0f} s at most")


def test_a_load_waits_for_models_that_are_loading():
    play = play_on(ONE)
    play.request("b")
    play.request("a", at=0.5)
    assert reasons(play, now=1.0)[1] == ("a", 1, 0.5, "memory", "waits for b to finish loading")


def test_a_load_behind_others_waits_for_them():
    play = play_on(ONE)
    play.request("busy")
    play.post(ev.Spawned(1, 1001, 0.0), ev.Ready(1, 9001, 0.0))
    for number in range(10):
        play.request(f"m{number}", at=1.0 + number / 10)
    assert reasons(play, now=3.0)[-1][3:] == ("earlier_loads", "waits for earlier loads")


def test_an_order_to_unload_waits_for_running_requests_and_later_requests_for_it():
    play = Play()
    play.ask(a_model("a"))
    play.post(ev.Ready(1, 9001, 0.0))
    play.ask(a_model("a"), at=1.0, command=ev.Unload)
    play.ask(a_model("a"), at=2.0)
    assert reasons(play, now=3.0) == [
        ("a", 1, 2.0, "unload", "waits for running requests to finish"),
        ("a", 1, 1.0, "unload", "waits for 1 running request to finish, then it is loaded again"),
    ]


def test_a_reader_who_may_not_see_the_model_in_the_way_learns_no_name():
    play = play_on(ONE)
    play.request("secret")
    play.post(ev.Spawned(1, 1001, 0.0), ev.Ready(1, 9001, 0.0))
    play.request("a", at=1.0)
    play.state = replace(play.state, servers=())  # as visible_pool
    assert reasons(play, now=2.0)[0][3:] == ("memory", "waits for another model to finish")
