"""Loads and unloads that somebody orders, and limits beside memory, each as a short story of events."""

from __future__ import annotations

import pytest

from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Done, Effect, Spawn, Stop, StopReason
from app.use_cases.scheduling.pool_state import SchedulingLimits
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_model, replace
from tests.scheduling.test_schedule import grants, refusals, spawned, stopped


def done(effects: list[Effect]) -> list[int]:
    return [e.ticket for e in effects if isinstance(e, Done)]


def test_a_load_is_done_once_its_server_is_on_its_way():
    play = Play()
    assert spawned(play.ask(a_model(), command=ev.Load)) == ["a"]
    assert done(play.post(ev.Spawned(1, 77, at=0.1))) == [1]
    assert play.post(ev.Ready(1, 9001, at=1.0)) == []


def test_a_load_of_what_is_loaded_is_done_at_once():
    play = Play()
    play.up(a_model())
    assert play.ask(a_model(), at=1.0, command=ev.Load) == [Done(2)]


def test_a_load_takes_no_slot():
    play = Play()
    play.up(a_model(slots=1))
    play.ask(a_model(slots=1), at=1.0, command=ev.Load)
    assert grants(play.ask(a_model(slots=1), at=1.0)) == {3: 1}


def test_a_load_without_room_is_refused_with_the_reason():
    assert refusals(Play().ask(a_model(gib=40), command=ev.Load)) == {1: Reason.DOES_NOT_FIT}


def test_an_unload_is_done_when_the_process_is_gone():
    play = Play()
    server = play.up(a_model())
    assert stopped(play.ask(a_model(), at=1.0, command=ev.Unload)) == [server]
    assert done(play.post(ev.Exited(server, "stopped", at=1.5))) == [2]
    assert play.state.servers == play.state.waiting == ()


def test_an_unload_of_what_is_not_loaded_is_done_at_once():
    assert Play().ask(a_model(), command=ev.Unload) == [Done(1)]


def test_an_unload_lets_a_busy_server_finish_and_gives_it_nothing_new():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0)
    assert play.ask(a_model(), at=2.0, command=ev.Unload) == []
    assert grants(play.ask(a_model(), at=3.0)) == {}
    assert stopped(play.post(ev.Release(2, at=4.0))) == [server]


def test_it_is_told_why_a_server_went():
    """By order, also where that waited for its last answer; or because its name means another file."""
    play = Play()
    play.up(a_model())
    (stop,) = play.ask(a_model(), at=1.0, command=ev.Unload)
    assert stop == Stop(1, StopReason.UNLOAD)
    play.post(ev.Exited(1, "stopped", at=1.5))
    server = play.up(a_model(), at=2.0)
    play.ask(a_model(), at=3.0)
    play.ask(a_model(), at=4.0, command=ev.Unload)
    (stop,) = play.post(ev.Release(4, at=5.0))
    assert stop == Stop(server, StopReason.UNLOAD)
    play.post(ev.Exited(server, "stopped", at=5.5))
    server = play.up(a_model(), at=6.0)
    (stop,) = play.ask(replace(a_model(), path="/models/other.gguf"), at=7.0)
    assert stop == Stop(server, StopReason.DRAINED)


def test_who_asks_for_a_model_on_its_way_out_has_it_loaded_again():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0, command=ev.Unload)
    play.ask(a_model(), at=1.1)
    effects = play.post(ev.Exited(server, "stopped", at=1.5))
    assert (done(effects), spawned(effects)) == ([2], ["a"])


def test_an_unload_while_loading_refuses_those_who_wait_for_the_load():
    play = Play()
    play.ask(a_model())
    effects = play.ask(a_model(), at=1.0, command=ev.Unload)
    assert (refusals(effects), stopped(effects)) == ({1: Reason.UNLOADED}, [1])
    assert done(play.post(ev.Exited(1, "stopped", at=1.5))) == [2]
    assert not play.state.failures


def test_an_unload_holds_although_the_one_who_ordered_it_left():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0)
    play.ask(a_model(), at=2.0, command=ev.Unload)
    play.post(ev.Cancel(3, at=2.5))
    assert stopped(play.post(ev.Release(2, at=4.0))) == [server]


def test_a_server_that_is_drained_already_may_be_told_to_go_for_good():
    play = Play()
    a = play.up(a_model("a", gib=9))
    play.ask(a_model("a", gib=9), at=1.0)
    play.ask(a_model("b", gib=9), at=2.0)
    play.ask(a_model("a", gib=9), at=2.5, command=ev.Unload)
    play.post(ev.Cancel(3, at=3.0))
    assert play.state.server(a).state is ServerState.DRAINING, "not ready again, although nobody needs its room"


def test_a_name_that_means_another_file_now_gets_another_server():
    play = Play()
    old, new = a_model(), replace(a_model(), path="/models/other.gguf")
    server = play.up(old)
    play.ask(old, at=1.0)
    assert grants(play.ask(new, at=2.0)) == {}, "not answered by the old file"
    assert stopped(play.post(ev.Release(2, at=3.0))) == [server]
    effects = play.post(ev.Exited(server, "stopped", at=3.5))
    assert [e.server.model.path for e in effects if isinstance(e, Spawn)] == ["/models/other.gguf"]


def test_a_model_that_is_only_called_otherwise_too_keeps_its_server():
    play = Play()
    play.up(a_model())
    assert grants(play.ask(replace(a_model(), aliases=("gpt",), ttl_seconds=3.0), at=1.0)) == {2: 1}


def test_a_failed_load_is_no_reason_to_refuse_an_unload():
    play = Play()
    play.ask(a_model())
    play.ask(a_model(), at=1.0, command=ev.Unload)
    effects = play.post(ev.Exited(1, "exit status 1", at=1.1))
    assert (refusals(effects), done(effects)) == ({}, [2])


def test_an_unload_is_no_request_for_room():
    play = Play(SchedulingLimits(max_waiting=1))
    play.up(a_model("a", slots=1))
    play.ask(a_model("a", slots=1), at=1.0)
    play.ask(a_model("a", slots=1), at=1.0)  # the queue is full
    assert play.ask(a_model("b"), at=1.0, command=ev.Unload) == [Done(4)]


def test_no_more_models_are_loaded_than_allowed():
    play = Play(SchedulingLimits(max_loaded=2))
    first, second = play.up(a_model("a"), at=0.0), play.up(a_model("b"), at=1.0)
    assert stopped(play.ask(a_model("c"), at=2.0)) == [first]
    assert spawned(play.post(ev.Exited(first, "stopped", at=2.5))) == ["c"]
    assert {s.id for s in play.state.servers} == {second, 3}


def test_a_busy_model_is_not_cut_for_the_number_of_models_either():
    play = Play(SchedulingLimits(max_loaded=1))
    server = play.up(a_model("a"))
    play.ask(a_model("a"), at=1.0)
    assert play.ask(a_model("b"), at=2.0) == []
    assert play.post(ev.Tick(at=2.0 + 120)) == [], "its turn has come: drained"
    assert stopped(play.post(ev.Release(2, at=160.0))) == [server]


@pytest.mark.parametrize(("own", "goes_at"), [(None, 20.0), (5.0, 5.0), (60.0, 60.0)])
def test_a_model_may_have_an_idle_time_of_its_own(own: float | None, goes_at: float):
    play = Play(SchedulingLimits(ttl_seconds=20))
    server = play.up(replace(a_model(), ttl_seconds=own))
    assert due_at(play.state) == goes_at
    assert stopped(play.post(ev.Tick(goes_at - 0.001))) == []
    assert stopped(play.post(ev.Tick(goes_at))) == [server]


def test_who_waits_when_the_file_changes_gets_a_server_of_the_new_one():
    """Started of what they had asked for, it would make way at once for what is asked since."""
    play, model = Play(), a_model(slots=1)
    play.ask(model)
    play.post(ev.Ready(1, 9001, at=0.5))
    play.ask(model, at=1.0)
    changed = replace(model, created=7)
    play.ask(changed, at=2.0)
    play.post(ev.Release(1, at=3.0))
    (spawn,) = (effect for effect in play.post(ev.Exited(1, "", at=4.0)) if isinstance(effect, Spawn))
    assert spawn.server.model == changed
    assert grants(play.post(ev.Ready(2, 9002, at=5.0))) == {2: 2}
    assert play.state.server(2).state is ServerState.READY
