"""What a llama-server says it needs, against what was booked: each rule as a short story of events."""

from __future__ import annotations

from app.entities.placement import CPU
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Refuse
from tests.helpers.builders import GIB, Play, a_model, booked, memory, replace
from tests.scheduling.test_schedule import grants, refusals, spawned, stopped


def ram_of(asked: PlacementRequest) -> int:
    return asked.estimate_with_margin(replace(asked.options, devices=0)).host.booked_bytes


def said(server: int, gib: float, at: float = 1.0) -> ev.Projected:
    return ev.Projected(server, {CPU: int(gib * GIB)}, at)


def test_less_than_was_booked_frees_the_difference():
    play = Play(total_gib=16)
    play.ask(a_model("a", gib=10))
    assert spawned(play.ask(a_model("b", gib=10), at=1.0)) == []
    # 10 GiB + 15 % are 11.5 GiB; with 4 of them 12 are left for the other 11.5
    assert spawned(play.post(said(1, gib=4))) == ["b"]
    assert play.state.server(1).expected_bytes == 4 * GIB


def test_more_than_was_booked_is_booked_where_there_is_room():
    play = Play(total_gib=16)
    play.ask(a_model(gib=2))
    assert play.post(said(1, gib=15)) == []
    assert play.state.server(1).expected_bytes == 15 * GIB
    assert grants(play.post(ev.Ready(1, 9001, at=2.0))) == {1: 1}


def test_what_it_holds_already_is_part_of_what_it_needs():
    play = Play(answers_readings=False)
    play.ask(a_model("a", gib=2))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    play.ask(a_model("b", gib=1), at=1.0)
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=14, held={1: 2}), at=1.0))
    # b claims 1.15 of the 14 GiB that are left; 14.85 GiB are room for 12.85 more
    assert stopped(play.post(said(1, gib=14.8))) == []
    assert stopped(play.post(said(1, gib=14.9))) == [1]


def test_a_start_that_needs_more_than_there_is_room_for_ends_and_room_is_made_for_what_it_said():
    """Before a byte of it moved; its waiters hear nothing of it."""
    play = Play(total_gib=16)
    idle = play.up(a_model("idle", gib=6), at=0.0)
    play.ask(a_model("new", gib=4), at=1.0)
    effects = play.post(said(2, gib=12, at=1.2))
    assert (stopped(effects), refusals(effects)) == ([2], {})
    assert stopped(play.post(ev.Exited(2, "", at=1.3))) == [idle]
    assert spawned(play.post(ev.Exited(idle, "", at=1.5))) == ["new"]
    assert play.state.server(3).expected_bytes == 12 * GIB
    assert play.post(said(3, gib=12, at=1.7)) == [], "the same report stops it no second time"
    assert grants(play.post(ev.Ready(3, 9003, at=5.0))) == {2: 3}


def test_what_can_never_fit_by_its_own_word_is_refused_with_that():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    assert stopped(play.post(said(1, gib=20))) == [1]
    (refuse,) = play.post(ev.Exited(1, "", at=1.1))
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.reason is Reason.DOES_NOT_FIT
    assert (refuse.refusal.needed_bytes, refuse.refusal.free_bytes) == (20 * GIB, {CPU: 16 * GIB})
    assert play.state.servers == ()


def test_the_same_report_stops_no_second_start_although_room_was_taken_meanwhile():
    play = Play(answers_readings=False)
    play.ask(a_model(gib=4))
    play.post(ev.MemoryRead(memory(at=0.0, available_gib=8), at=0.0), said(1, gib=9))
    play.post(ev.Exited(1, "", at=1.1), ev.MemoryRead(memory(at=1.2, available_gib=9.5), at=1.2))
    play.ask(a_model("other", gib=1), at=1.3)
    play.post(ev.MemoryRead(memory(at=1.3, available_gib=3), at=1.3))
    assert play.post(said(2, gib=9, at=1.4)) == []
    assert play.state.server(2).state is ServerState.STARTING


def test_a_second_start_that_needs_yet_more_is_given_up():
    play = Play(total_gib=16)
    play.ask(a_model("odd", gib=4))
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=10), at=1.0), said(1, gib=12), ev.Exited(1, "", at=1.1))
    assert play.state.server(2).is_replanned
    effects = play.post(said(2, gib=17, at=1.4))
    assert (stopped(effects), refusals(effects)) == ([2], {1: Reason.DOES_NOT_FIT})
    assert "needs 17408 MiB of RAM, 12288 MiB were booked" in play.state.failures["odd"].detail
    assert play.post(ev.Exited(2, "", at=1.5)) == []


def test_who_comes_while_it_ends_is_planned_with_what_it_said():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.post(said(1, gib=20), ev.Cancel(1, at=1.05))
    play.ask(a_model(gib=4), at=1.1)
    assert refusals(play.post(ev.Exited(1, "", at=1.2))) == {2: Reason.DOES_NOT_FIT}


def test_a_file_that_has_changed_is_not_planned_with_what_the_old_one_said():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.ask(replace(a_model(gib=4), created=2), at=0.5)
    play.post(said(1, gib=20))
    assert [ram_of(w.placement_request) for w in play.state.waiting] == 2 * [booked(a_model(gib=4))], (
        "who waited gets the new one"
    )


def test_a_load_that_nobody_waits_for_any_more_leaves_word_of_its_end():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4), command=ev.Load)
    assert stopped(play.post(said(1, gib=20))) == [1]
    assert play.state.failures["a"].detail == (
        "a: its llama-server needs 20480 MiB of RAM, 4710 MiB were booked and 16384 MiB are available"
    )


def test_what_it_says_once_it_was_told_to_end_changes_nothing():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.ask(a_model(gib=4), command=ev.Unload)
    before = play.state
    assert play.post(said(1, gib=20)) == []
    assert play.state == before


def test_a_word_about_memory_is_a_sign_of_life():
    play = Play()
    play.ask(a_model(gib=4))
    play.post(said(1, gib=4, at=7.0))
    assert play.state.server(1).progress_at == 7.0


def test_a_loaded_server_is_booked_as_measured_be_it_less_or_more():
    play = Play(total_gib=16)
    play.up(a_model(gib=4))
    for gib in (3, 5):
        assert play.post(ev.Measured(1, {CPU: gib * GIB}, at=1.0)) == []
        server = play.state.server(1)
        assert (server.expected_bytes, server.reported_bytes) == (gib * GIB, gib * GIB)


def test_what_is_measured_to_be_free_lets_who_waits_start():
    play = Play(answers_readings=False)
    play.up_by_hand(a_model("a", gib=10))
    play.ask(a_model("b", gib=8), at=1.0)
    play.ask(a_model("a", gib=10), at=1.0)
    # a is mapped: 15 GiB "available", of 16 in all 11.5 booked, then 5; b takes 8 GiB + 15 % = 9.2
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=15), at=1.0))
    assert spawned(play.post(ev.Measured(1, {CPU: 5 * GIB}, at=1.1))) == ["b"]
