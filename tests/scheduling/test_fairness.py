"""The order of loads, the choice of victims and their protection: each rule as a list of events."""

from __future__ import annotations

import pytest

from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.errors import error_for
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.demand import with_load_seconds
from app.use_cases.scheduling.effects import Grant, Refuse
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_model, replace
from tests.scheduling.test_schedule import IMPATIENT, grants, refusals, spawned, stopped


def used(play: Play, name: str, times: int, until: float, gib: float = 10) -> int:
    """The id of a ready server that was requested so many times, every two seconds, the last time at `until`."""
    model = a_model(name, gib=gib)
    server = play.up(model, at=until - 2 * (times - 1))
    for number in range(1, times):
        at = until - 2 * (times - 1 - number)
        (grant,) = play.ask(model, at=at)
        assert isinstance(grant, Grant)
        play.post(ev.Release(grant.ticket, at))
    return server


def first_stop(play: Play, until: float) -> float | None:
    """When the first server is stopped if only time passes."""
    while (due := due_at(play.state)) is not None and due <= until:
        if stopped(play.post(ev.Tick(at=due))):
            return due
    return None


# --- eviction protection ---------------------------------------------------------------------------------------------


def test_a_model_in_frequent_use_is_protected_until_others_have_waited_long_enough():
    play = Play(total_gib=16)
    server = used(play, "hot", times=20, until=100)
    assert stopped(play.ask(a_model("new", gib=10), at=101)) == []
    assert "protected from eviction until others have waited longer" in play.decided[-1].decision.reason
    assert first_stop(play, 300) == 120, "unused for its residency"
    assert play.state.server(server).state is ServerState.STOPPING


def test_many_waiters_evict_sooner_than_one():
    def evicted_at(waiters: int) -> float | None:
        play = Play(SchedulingLimits(min_residency_seconds=10_000), total_gib=16)
        used(play, "hot", times=4, until=100)
        for _ in range(waiters):
            play.ask(a_model("new", gib=10), at=101)
        return first_stop(play, 300)

    one, four = evicted_at(1), evicted_at(4)
    assert one is not None and four is not None
    assert 101 < four < one < 251


def test_a_past_burst_protects_its_server_for_less_time():
    play = Play(SchedulingLimits(min_residency_seconds=10_000), total_gib=16)
    used(play, "hot", times=20, until=100)
    play.state = replace(play.state, demands=with_load_seconds(play.state.demands, "hot", 10.0))
    play.ask(a_model("new", gib=10), at=190)
    evicted_at = first_stop(play, 1000)
    assert evicted_at is not None and evicted_at < 190 + 60, "at the old rate it would be protected for 120 s"


def test_without_min_residency_a_model_is_evicted_as_soon_as_it_is_idle():
    play = Play(SchedulingLimits(min_residency_seconds=0), total_gib=16)
    server = used(play, "hot", times=20, until=100)
    assert stopped(play.ask(a_model("new", gib=10), at=101)) == [server]


def test_a_starving_waiter_evicts_even_a_popular_model():
    play = Play(SchedulingLimits(min_residency_seconds=10_000), total_gib=16)
    used(play, "hot", times=100, until=200)
    play.state = replace(play.state, demands=with_load_seconds(play.state.demands, "hot", 60.0))
    play.ask(a_model("new", gib=10), at=201)
    assert first_stop(play, 1000) == 201 + 120


def test_a_busy_server_serves_its_own_requests_until_a_waiter_is_starving():
    play = Play(total_gib=16)
    play.ask(a_model("busy", gib=10))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("new", gib=10), at=1.0, patience=1000)
    assert grants(play.ask(a_model("busy", gib=10), at=110.0)) == {3: 1}, "a ready model is never held by a load"
    assert due_at(play.state) == 121
    play.post(ev.Tick(at=121.0))
    assert play.state.server(1).state is ServerState.DRAINING


def test_a_server_that_has_just_become_ready_is_not_drained_at_once():
    """Where all have waited long, each model would be drained after its first answers, before it served its queue."""
    play = Play(total_gib=16)
    play.ask(a_model("busy", gib=10), patience=1000)
    play.ask(a_model("new", gib=10), at=1.0, patience=1000)
    play.post(ev.Ready(1, 9001, at=160.0))
    assert play.state.server(1).state is ServerState.READY
    assert due_at(play.state) == 160 + 60
    play.post(ev.Tick(at=220.0))
    assert play.state.server(1).state is ServerState.DRAINING


def one_of_two_busy_victims_is_drained(play: Play) -> None:
    """Both are in the way of a large model whose request is starving; the second has just become ready."""
    for number, (name, at) in enumerate((("a", 0.0), ("b", 100.0)), 1):
        play.ask(a_model(name, gib=10), at=at, patience=1000)
        play.post(ev.Ready(number, 9000, at=at))
        if name == "a":
            play.ask(a_model("large", gib=18), at=1.0, patience=1000)
    play.post(ev.Tick(at=121.0))
    assert [s.state for s in play.state.servers] == [ServerState.DRAINING, ServerState.READY]


def test_of_two_busy_victims_the_memory_of_the_first_is_reserved_until_the_second_is_drained():
    """Other models used to take that memory, and had then just become ready: it was never all free at once."""
    play = Play(total_gib=24)
    one_of_two_busy_victims_is_drained(play)
    play.post(ev.Release(1, at=122.0))
    assert spawned(play.post(ev.Exited(1, "", at=123.0))) == []
    assert spawned(play.ask(a_model("other", gib=9), at=124.0)) == [], "what is free is reserved"
    assert due_at(play.state) == 160.0
    play.post(ev.Tick(at=160.0))
    assert play.state.server(2).state is ServerState.DRAINING


def test_an_idle_victim_is_evicted_at_once_also_if_it_has_just_become_ready():
    """Only a server with requests of its own is left alone for a while; its memory is needed beside a busy one's."""
    play = Play(total_gib=24)
    play.ask(a_model("a", gib=10), patience=1000)
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("large", gib=18), at=1.0, patience=1000)
    play.ask(a_model("b", gib=10), at=100.0)
    play.post(ev.Ready(2, 9002, at=100.0), ev.Release(3, at=101.0))
    assert stopped(play.post(ev.Tick(at=121.0))) == [2]
    assert play.state.server(1).state is ServerState.DRAINING


def test_a_server_that_becomes_idle_is_evicted_at_once():
    play = Play(total_gib=16)
    play.ask(a_model("busy", gib=10))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("new", gib=10), at=1.0)
    assert stopped(play.post(ev.Release(1, at=9.0))) == [1]


# --- victims ---------------------------------------------------------------------------------------------------------


def test_the_less_requested_model_is_evicted_although_it_was_used_later():
    play = Play(total_gib=24)
    hot, rare = used(play, "hot", times=20, until=100), play.up(a_model("rare", gib=10), at=105)
    play.post(ev.Tick(at=140.0))
    assert stopped(play.ask(a_model("new", gib=10), at=140)) == [rare]
    assert play.state.server(hot).state is ServerState.READY


def test_of_equally_requested_models_the_one_that_loads_faster_is_evicted():
    play = Play(total_gib=24)
    for number, (name, seconds) in enumerate((("slow", 30.0), ("quick", 2.0)), 1):
        play.ask(a_model(name, gib=10), at=0.0)
        play.post(ev.Ready(number, 9000, at=seconds), ev.Release(number, at=seconds))
    assert stopped(play.ask(a_model("new", gib=10), at=100)) == [2]


def test_the_cheapest_sufficient_set_of_victims_is_evicted_at_once():
    """Two rarely used models of 5 GiB cost less than one of 10 GiB in frequent use; one of them is not enough."""
    play = Play(total_gib=24)
    used(play, "hot", times=20, until=100)
    rare = [play.up(a_model(f"rare{number}", gib=4.9), at=50.0) for number in range(2)]
    assert stopped(play.ask(a_model("new", gib=9), at=140)) == rare


def test_the_cost_of_a_set_of_victims_is_that_of_the_whole_set():
    """Cheapest first would evict both small ones and then the large one, which alone is enough."""
    play = Play(total_gib=24)
    small = [used(play, f"small{number}", times=4, until=60.0, gib=5) for number in range(2)]
    large = used(play, "large", times=5, until=60.0, gib=10)
    assert stopped(play.ask(a_model("new", gib=10), at=140)) == [large]
    assert all(play.state.server(each).state is ServerState.READY for each in small)


def test_a_set_of_victims_is_protected_as_long_as_the_one_used_last():
    play = Play(total_gib=24)
    used(play, "earlier", times=20, until=90)
    used(play, "later", times=20, until=100)
    play.ask(a_model("large", gib=18), at=101)
    assert first_stop(play, until=200) == 120.0  # 20 s after the use at 100


def test_a_recently_loaded_model_is_evicted_last():
    play = Play(total_gib=24)
    old = used(play, "old", times=2, until=80)
    young = play.up(a_model("young", gib=10), at=95)
    assert stopped(play.ask(a_model("new", gib=10), at=101)) == [old], "although it is requested more often"
    assert play.state.server(young).state is ServerState.READY


def test_a_recently_loaded_model_is_evicted_if_nothing_else_helps():
    play = Play(total_gib=16)
    young = play.up(a_model("young", gib=10), at=95)
    assert stopped(play.ask(a_model("new", gib=10), at=101)) == [young]


def test_a_pinned_model_is_neither_evicted_nor_unloaded_when_idle():
    play = Play(SchedulingLimits(ttl_seconds=60, max_wait_seconds=10), total_gib=24)
    pinned = play.up(replace(a_model("pinned", gib=10), pin=True))
    other = play.up(a_model("other", gib=9), at=1.0)
    assert stopped(play.ask(a_model("new", gib=10), at=30.0)) == [other]
    spawned(play.post(ev.Exited(other, "", at=31.0)))
    assert refusals(play.ask(a_model("large", gib=16), at=40.0)) == {4: Reason.INSUFFICIENT_MEMORY}
    play.post(ev.Tick(at=1000.0))
    assert play.state.server(pinned).state is ServerState.READY


def test_a_pinned_model_with_a_ttl_of_its_own_is_unloaded_when_idle():
    play = Play(SchedulingLimits(ttl_seconds=60))
    pinned = play.up(replace(a_model(), pin=True, ttl_seconds=5.0))
    assert stopped(play.post(ev.Tick(at=4.9))) == []
    assert stopped(play.post(ev.Tick(at=5.0))) == [pinned]


def test_a_pinned_model_is_not_drained_for_another():
    play = Play(IMPATIENT, total_gib=16)
    model = replace(a_model("pinned", gib=10), pin=True)
    play.ask(model)
    play.post(ev.Ready(1, 9001, at=0.0))
    assert refusals(play.ask(a_model("new", gib=10), at=1.0)) == {2: Reason.INSUFFICIENT_MEMORY}
    assert play.decided[-1].decision.reason.endswith("; pinned models are not evicted: pinned")


def test_an_eviction_for_max_loaded_alone_says_so():
    play = Play(SchedulingLimits(max_loaded=1), total_gib=16)
    play.up(a_model("a"))
    play.ask(a_model("b"), at=1.0)
    assert play.decided[-1].decision.reason.endswith("after evicting a; scheduling.max_loaded is reached")


def test_a_rejection_because_of_pinned_models_and_max_loaded_does_not_mention_memory():
    play = Play(SchedulingLimits(max_loaded=1), total_gib=16)
    play.up(replace(a_model("pinned"), pin=True))
    (refuse,) = play.ask(a_model("new"), at=1.0)
    assert isinstance(refuse, Refuse) and refuse.refusal.reason is Reason.INSUFFICIENT_MEMORY
    assert str(error_for(refuse.refusal)) == (
        "new: pinned models (pinned) use up scheduling.max_loaded; raise it or unpin one"
    )


def test_lower_priority_is_evicted_first():
    play = Play(total_gib=24)
    low = used(play, "low", times=9, until=50)
    play.up(replace(a_model("high", gib=9), priority=1), at=20.0)
    assert stopped(play.ask(a_model("new", gib=10), at=140)) == [low]


def test_a_higher_priority_model_is_evicted_only_after_its_residency():
    play = Play(total_gib=16)
    play.up(replace(a_model("high", gib=10), priority=1), at=100.0)
    assert stopped(play.ask(a_model("new", gib=10), at=101)) == []
    assert first_stop(play, 300) == 120


# --- loading order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "first"), [(2.0, "high"), (160.0, "low")])
def test_a_higher_priority_loads_first_unless_another_waiter_is_starving(at: float, first: str):
    play = Play(total_gib=16)
    play.ask(a_model("busy", gib=10), patience=1000)
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("low", gib=10), at=1.0, patience=1000)
    play.ask(replace(a_model("high", gib=10), priority=1), at=1.5, patience=1000)
    play.post(ev.Tick(at=at))
    play.post(ev.Release(1, at=at + 1), ev.Tick(at=at + 2))
    assert spawned(play.post(ev.Exited(1, "", at=at + 3))) == [first]


def test_a_load_that_waits_for_memory_does_not_delay_one_that_fits():
    play = Play(total_gib=16)
    play.ask(a_model("busy", gib=10))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("large", gib=10), at=1.0)
    assert spawned(play.ask(a_model("small", gib=1), at=2.0)) == ["small"]


@pytest.mark.parametrize(("gib", "starts"), [(1, ["behind"]), (3, [])])
def test_later_loads_do_not_use_reserved_memory(gib: float, starts: list[str]):
    """12 GiB + 15 % of 16 GiB leave 2.2. The rest of the 4.5 GiB that are free now is reserved."""
    play = Play(total_gib=16)
    old = play.up(a_model("old", gib=10))
    assert stopped(play.ask(a_model("first", gib=12), at=50.0)) == [old]
    assert spawned(play.ask(a_model("behind", gib=gib), at=50.5)) == starts
    assert "first" in spawned(play.post(ev.Exited(old, "", at=51.0)))


def test_later_loads_may_use_free_memory_that_the_reservation_does_not_need():
    """Two models of 11.5 GiB end for one of 20.7, the second only once it has served its own requests. The 7 GiB that
    are free now are not needed."""
    play = Play(total_gib=30)
    one_of_two_busy_victims_is_drained(play)
    assert spawned(play.ask(a_model("small", gib=1), at=122.0)) == ["small"]


def test_a_second_load_evicts_no_server_that_is_stopping_for_the_first():
    """Only the second of two waiting loads needs a second eviction."""
    play = Play(total_gib=24)
    one, two = play.up(a_model("one", gib=10), at=0.0), play.up(a_model("two", gib=10), at=1.0)
    assert stopped(play.ask(a_model("first", gib=10), at=50.0)) == [one]
    assert stopped(play.ask(a_model("second", gib=10), at=50.5)) == [two]
    assert spawned(play.post(ev.Exited(one, "", at=51.0))) == ["first"]
    assert spawned(play.post(ev.Exited(two, "", at=51.5))) == ["second"]


def test_a_model_that_never_fits_is_rejected_at_once_although_others_wait():
    play = Play(total_gib=16)
    old = play.up(a_model("old", gib=10))
    assert stopped(play.ask(a_model("first", gib=12), at=50.0)) == [old]
    assert refusals(play.ask(a_model("never", gib=40), at=50.5)) == {3: Reason.DOES_NOT_FIT}


def test_a_load_that_only_lacks_reserved_memory_is_not_rejected():
    play = Play(total_gib=16)
    old = play.up(a_model("old", gib=10))
    assert stopped(play.ask(a_model("first", gib=12), at=50.0)) == [old]
    assert play.ask(a_model("second", gib=12), at=50.5) == []
