"""Loads and unloads by order, and limits other than memory: each rule as a list of events."""

from __future__ import annotations

import functools

import pytest

from app.entities.refusal import Reason, Refusal
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Done, Effect, Refuse, Spawn, Stop, StopReason
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import ServerEnding
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_model, a_placement_request, replace
from tests.scheduling.test_schedule import grants, refusals, spawned, stopped


def done(effects: list[Effect]) -> list[int]:
    return [e.ticket for e in effects if isinstance(e, Done)]


def test_a_load_completes_once_its_server_is_starting():
    play = Play()
    assert spawned(play.ask(a_model(), command=ev.Load)) == ["a"]
    assert done(play.post(ev.Spawned(1, 77, at=0.1))) == [1]
    assert play.post(ev.Ready(1, 9001, at=1.0)) == []


def test_a_load_of_a_loaded_model_completes_at_once():
    play = Play()
    play.up(a_model())
    assert play.ask(a_model(), at=1.0, command=ev.Load) == [Done(2)]


def test_a_load_takes_no_slot():
    play = Play()
    play.up(a_model(slots=1))
    play.ask(a_model(slots=1), at=1.0, command=ev.Load)
    assert grants(play.ask(a_model(slots=1), at=1.0)) == {3: 1}


def test_a_load_that_does_not_fit_is_rejected_with_the_reason():
    assert refusals(Play().ask(a_model(gib=40), command=ev.Load)) == {1: Reason.DOES_NOT_FIT}


def test_an_unload_completes_when_the_process_has_ended():
    play = Play()
    server = play.up(a_model())
    assert stopped(play.ask(a_model(), at=1.0, command=ev.Unload)) == [server]
    assert done(play.post(ev.Exited(server, "stopped", at=1.5))) == [2]
    assert play.state.servers == play.state.waiting == ()


def test_an_unload_of_a_model_that_is_not_loaded_completes_at_once():
    assert Play().ask(a_model(), command=ev.Unload) == [Done(1)]


def test_an_unload_drains_a_busy_server():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0)
    assert play.ask(a_model(), at=2.0, command=ev.Unload) == []
    assert grants(play.ask(a_model(), at=3.0)) == {}
    assert stopped(play.post(ev.Release(2, at=4.0))) == [server]


def test_a_stop_says_why():
    """By order, also after its running requests; or because its name means another file."""
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


def test_a_request_during_an_unload_loads_the_model_again():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0, command=ev.Unload)
    play.ask(a_model(), at=1.1)
    effects = play.post(ev.Exited(server, "stopped", at=1.5))
    assert (done(effects), spawned(effects)) == ([2], ["a"])


def test_an_unload_while_loading_rejects_the_waiters_of_the_load():
    play = Play()
    play.ask(a_model())
    effects = play.ask(a_model(), at=1.0, command=ev.Unload)
    assert (refusals(effects), stopped(effects)) == ({1: Reason.UNLOADED}, [1])
    assert done(play.post(ev.Exited(1, "stopped", at=1.5))) == [2]
    assert not play.state.failures


def test_an_unload_is_carried_out_although_its_client_disconnected():
    play = Play()
    server = play.up(a_model())
    play.ask(a_model(), at=1.0)
    play.ask(a_model(), at=2.0, command=ev.Unload)
    play.post(ev.Cancel(3, at=2.5))
    assert stopped(play.post(ev.Release(2, at=4.0))) == [server]


def unload(play: Play, at: float, grace_seconds: float) -> list[Effect]:
    """An order that ends running requests `grace_seconds` later."""
    return play.ask(a_model(slots=1), at=at, command=functools.partial(ev.Unload, force_at=at + grace_seconds))


def busy(queued: int = 0) -> Play:
    """Server 1 answers request 2 since 1 s; `queued` requests wait for its only slot."""
    play = Play()
    play.up(a_model(slots=1))
    for _ in range(1 + queued):
        play.ask(a_model(slots=1), at=1.0)
    return play


def test_a_forced_unload_waits_for_no_request():
    """An order waited for a stream without a bound: 56 s were seen."""
    play = busy()
    assert unload(play, at=2.0, grace_seconds=0.0) == [Stop(1, StopReason.UNLOAD_FORCED)]
    assert StopReason.UNLOAD_FORCED.kills
    assert play.state.endings == {1: ServerEnding("a was unloaded", is_unloaded=True)}
    assert play.post(ev.Release(2, at=2.1, ending=ev.Ending.ABORTED_WHILE_STREAMING)) == []
    assert done(play.post(ev.Exited(1, "killed", at=2.2, exit_code=-9))) == [3]
    assert not play.state.suspects and not play.state.backoffs, "it is nobody's fault"


def test_an_unload_with_a_bound_is_forced_at_its_end():
    play = busy()
    assert unload(play, at=2.0, grace_seconds=10.0) == []
    assert due_at(play.state) == 12.0
    assert stopped(play.post(ev.Tick(at=11.9))) == []
    assert play.post(ev.Tick(at=12.0)) == [Stop(1, StopReason.UNLOAD_FORCED)]
    assert due_at(play.state) != 12.0


def test_an_unload_with_a_bound_is_forced_although_its_client_disconnected():
    play = busy()
    unload(play, at=2.0, grace_seconds=10.0)
    play.post(ev.Cancel(3, at=3.0))
    assert stopped(play.post(ev.Tick(at=12.0))) == [1]


def test_a_server_that_has_finished_is_stopped_before_that_and_may_save_its_cache():
    play = busy()
    unload(play, at=2.0, grace_seconds=10.0)
    assert play.post(ev.Release(2, at=5.0)) == [Stop(1, StopReason.UNLOAD)]
    idle = Play()
    idle.up(a_model(slots=1))
    assert unload(idle, at=1.0, grace_seconds=0.0) == [Stop(1, StopReason.UNLOAD)]


def test_what_waited_before_a_forced_unload_does_not_load_the_model_again():
    play = busy(queued=1)
    effects = unload(play, at=2.0, grace_seconds=0.0)
    assert (refusals(effects), stopped(effects)) == ({3: Reason.UNLOADED}, [1])


def test_what_comes_after_the_order_is_served_by_the_next_server():
    """Whether the running requests finished or were ended."""
    play = busy(queued=1)
    unload(play, at=2.0, grace_seconds=10.0)
    assert grants(play.ask(a_model(slots=1), at=3.0)) == {}
    assert refusals(play.post(ev.Tick(at=12.0))) == {3: Reason.UNLOADED}
    effects = play.post(ev.Exited(1, "killed", at=12.1))
    assert (done(effects), spawned(effects)) == ([4], ["a"])
    assert grants(play.post(ev.Ready(2, 9002, at=14.0))) == {5: 2}


def test_of_several_unloads_the_earliest_end_counts():
    play = busy()
    play.ask(a_model(slots=1), at=2.0, command=ev.Unload)
    unload(play, at=3.0, grace_seconds=10.0)
    unload(play, at=4.0, grace_seconds=100.0)
    assert stopped(play.post(ev.Tick(at=13.0))) == [1]


def test_an_engine_that_works_for_clients_who_left_is_not_waited_for_either():
    play = busy()
    play.post(ev.Release(2, at=1.5, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert unload(play, at=2.0, grace_seconds=0.0) == [Stop(1, StopReason.UNLOAD_FORCED)]


def test_a_draining_server_can_be_unloaded_for_good():
    play = Play()
    a = play.up(a_model("a", gib=9))
    play.ask(a_model("a", gib=9), at=1.0)
    play.ask(a_model("b", gib=9), at=2.0)
    play.ask(a_model("a", gib=9), at=2.5, command=ev.Unload)
    play.post(ev.Cancel(3, at=3.0))
    assert play.state.server(a).state is ServerState.DRAINING, "not ready again, although no load needs its memory"


def test_a_name_that_means_another_file_gets_another_server():
    play = Play()
    old, new = a_model(), replace(a_model(), path="/models/other.gguf")
    server = play.up(old)
    play.ask(old, at=1.0)
    assert grants(play.ask(new, at=2.0)) == {}, "not served from the old file"
    assert stopped(play.post(ev.Release(2, at=3.0))) == [server]
    effects = play.post(ev.Exited(server, "stopped", at=3.5))
    assert [e.server.model.path for e in effects if isinstance(e, Spawn)] == ["/models/other.gguf"]


def test_a_model_with_a_new_alias_keeps_its_server():
    play = Play()
    play.up(a_model())
    assert grants(play.ask(replace(a_model(), aliases=("gpt",), ttl_seconds=3.0), at=1.0)) == {2: 1}


def test_a_failed_load_does_not_reject_an_unload():
    play = Play()
    play.ask(a_model())
    play.ask(a_model(), at=1.0, command=ev.Unload)
    effects = play.post(ev.Exited(1, "exit status 1", at=1.1))
    assert (refusals(effects), done(effects)) == ({}, [2])


def test_an_unload_is_not_limited_by_the_queue():
    play = Play(SchedulingLimits(max_waiting=1))
    play.up(a_model("a", slots=1))
    play.ask(a_model("a", slots=1), at=1.0)
    play.ask(a_model("a", slots=1), at=1.0)  # the queue is full
    assert play.ask(a_model("b"), at=1.0, command=ev.Unload) == [Done(4)]


def test_no_more_models_are_loaded_than_max_loaded():
    play = Play(SchedulingLimits(max_loaded=2))
    first, second = play.up(a_model("a"), at=0.0), play.up(a_model("b"), at=1.0)
    assert stopped(play.ask(a_model("c"), at=2.0)) == [first]
    assert spawned(play.post(ev.Exited(first, "stopped", at=2.5))) == ["c"]
    assert {s.id for s in play.state.servers} == {second, 3}


def test_a_busy_model_is_drained_for_max_loaded_not_interrupted():
    play = Play(SchedulingLimits(max_loaded=1))
    server = play.up(a_model("a"))
    play.ask(a_model("a"), at=1.0)
    assert play.ask(a_model("b"), at=2.0) == []
    assert play.post(ev.Tick(at=2.0 + 120)) == [], "starving: the busy server is drained"
    assert stopped(play.post(ev.Release(2, at=160.0))) == [server]


@pytest.mark.parametrize(("ttl_seconds", "stopped_at"), [(None, 20.0), (5.0, 5.0), (60.0, 60.0)])
def test_a_model_may_have_a_ttl_of_its_own(ttl_seconds: float | None, stopped_at: float):
    play = Play(SchedulingLimits(ttl_seconds=20))
    server = play.up(replace(a_model(), ttl_seconds=ttl_seconds))
    assert due_at(play.state) == stopped_at
    assert stopped(play.post(ev.Tick(stopped_at - 0.001))) == []
    assert stopped(play.post(ev.Tick(stopped_at))) == [server]


def test_a_waiter_gets_a_server_of_the_changed_file():
    """A server of the old file would be drained at once for the new one."""
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


def ask_for_loaded(play: Play, ticket: int, at: float) -> list[Effect]:
    request = a_placement_request(2**30)
    return list(play.post(ev.Acquire(ticket, a_model(), at, at + 300, request, may_load=False)))


def test_a_request_that_may_not_load_waits_for_a_load_of_others_but_causes_none():
    play = Play()
    assert ask_for_loaded(play, 50, at=0.0) == [Refuse(50, Refusal(Reason.UNLOADED, "a"))]
    play.ask(a_model(), at=1.0)
    assert ask_for_loaded(play, 51, at=1.1) == []
    assert set(grants(play.post(ev.Ready(1, 9001, at=2.0)))) == {1, 51}


def test_a_request_that_may_not_load_is_rejected_when_the_load_it_waits_for_fails():
    play = Play()
    play.ask(a_model())
    ask_for_loaded(play, 51, at=0.1)
    effects = play.post(ev.Cancel(1, at=0.2), ev.Exited(1, "failed", at=0.3))
    assert 51 in refusals(effects)
    assert not spawned(effects)


def test_a_request_that_may_not_load_is_rejected_by_a_server_that_ends():
    play = Play()
    play.up(a_model())
    play.ask(a_model(), at=1.0)
    play.ask(a_model(), at=1.1, command=ev.Unload)
    assert refusals(ask_for_loaded(play, 51, at=1.2)) == {51: Reason.UNLOADED}
