"""The scheduler's rules, each as a list of events."""

from __future__ import annotations

import pytest

from app.entities.placement import CPU
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.errors import error_for
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import CheckServer, Effect, Grant, ReadMemory, Refuse, Spawn, Stop
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at, step
from tests.helpers.builders import Play, a_model, memory

IMPATIENT = SchedulingLimits(max_wait_seconds=10)  # a request is starving after four


def refusals(effects: list[Effect]) -> dict[int, Reason]:
    return {e.ticket: e.refusal.reason for e in effects if isinstance(e, Refuse)}


def grants(effects: list[Effect]) -> dict[int, int]:
    return {e.ticket: e.server for e in effects if isinstance(e, Grant)}


def spawned(effects: list[Effect]) -> list[str]:
    return [e.server.model.name for e in effects if isinstance(e, Spawn)]


def stopped(effects: list[Effect]) -> list[int]:
    return [e.server for e in effects if isinstance(e, Stop)]


def test_the_first_request_loads_its_model_once_memory_was_read():
    play = Play(answers_readings=False)
    assert play.ask(a_model()) == [ReadMemory()]
    effects = play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    assert spawned(effects) == ["a"]


def test_a_reading_older_than_the_request_starts_nothing():
    play = Play(answers_readings=False)
    play.post(ev.MemoryRead(memory(at=1.0), at=1.0))
    assert play.ask(a_model(), at=2.0) == [ReadMemory()]


def test_one_load_serves_all_its_waiters():
    play = Play()
    effects = [e for _ in range(5) for e in play.ask(a_model(slots=8))]
    assert spawned(effects) == ["a"]
    assert grants(play.post(ev.Ready(1, 9001, at=1.0))) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def test_a_ready_server_grants_its_slots_and_further_requests_wait():
    play = Play()
    for _ in range(3):
        play.ask(a_model(slots=2))
    assert grants(play.post(ev.Ready(1, 9001, at=1.0))) == {1: 1, 2: 1}
    assert grants(play.post(ev.Release(1, at=2.0))) == {3: 1}


def test_a_canceled_waiter_is_removed_and_its_load_continues():
    play = Play()
    play.ask(a_model())
    assert refusals(play.post(ev.Cancel(1, at=0.5))) == {1: Reason.CLIENT_DISCONNECTED}
    assert [s.state for s in play.state.servers] == [ServerState.STARTING]
    assert grants(play.post(ev.Ready(1, 9001, at=1.0))) == {}


def test_a_cancel_after_the_grant_changes_nothing():
    play = Play()
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=1.0))
    before = play.state
    assert play.post(ev.Cancel(1, at=1.1)) == []
    assert play.state == before


def test_a_failed_load_rejects_every_waiter_of_that_model_and_no_other():
    play = Play()
    play.ask(a_model("a"))
    play.ask(a_model("a"))
    play.ask(a_model("b"))
    effects = play.post(ev.Exited(1, "unknown model architecture", at=1.0))
    assert refusals(effects) == {1: Reason.LOAD_FAILED, 2: Reason.LOAD_FAILED}
    assert play.state.failures["a"].detail == "unknown model architecture"
    assert [w.ticket for w in play.state.waiting] == [3]


def test_a_later_request_tries_a_failed_model_again_and_success_forgets_the_failure():
    play = Play()
    play.ask(a_model())
    play.post(ev.Exited(1, "bad luck", at=1.0))
    assert spawned(play.ask(a_model(), at=2.0)) == ["a"]
    play.post(ev.Ready(2, 9002, at=3.0))
    assert play.state.failures == {}


def test_a_process_that_could_not_be_spawned_is_reported_as_such():
    play = Play()
    play.ask(a_model())
    effects = play.post(ev.Exited(1, "Too many open files", at=1.0, could_not_spawn=True))
    assert refusals(effects) == {1: Reason.SPAWN_FAILED}


def test_a_crash_while_serving_frees_memory_and_the_next_request_loads_the_model():
    play = Play()
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=1.0), ev.Exited(1, "segfault", at=2.0), ev.Release(1, at=2.1))
    assert play.state.servers == ()
    assert spawned(play.ask(a_model(), at=3.0)) == ["a"]


def test_an_idle_model_is_evicted_when_another_needs_its_memory():
    play = Play(total_gib=16)
    old = play.up(a_model("old", gib=10), at=0.0)
    assert stopped(play.ask(a_model("new", gib=10), at=5.0)) == [old]
    assert spawned(play.post(ev.Exited(old, "", at=6.0))) == ["new"]


def test_only_as_many_idle_models_are_evicted_as_needed():
    play = Play(total_gib=16)
    older, newer = play.up(a_model("older", gib=5), at=0.0), play.up(a_model("newer", gib=5), at=1.0)
    assert stopped(play.ask(a_model("c", gib=7), at=5.0)) == [older]
    assert play.state.server(newer).state is ServerState.READY


def test_models_that_fit_together_stay_loaded():
    play = Play(total_gib=16)
    play.up(a_model("a", gib=5))
    assert spawned(play.ask(a_model("b", gib=5), at=1.0)) == ["b"]
    assert stopped(play.effects) == []


def test_a_busy_server_is_drained_not_killed():
    play = Play(IMPATIENT, total_gib=16)
    play.ask(a_model("busy", gib=10))
    play.post(ev.Ready(1, 9001, at=0.0))
    assert play.ask(a_model("new", gib=10), at=1.0) == []
    play.post(ev.Tick(at=6.0))
    assert play.state.server(1).state is ServerState.DRAINING
    assert play.ask(a_model("busy", gib=10), at=7.0) == [], "a draining server accepts nothing new"
    assert stopped(play.post(ev.Release(1, at=8.0))) == [1]
    assert spawned(play.post(ev.Exited(1, "", at=9.0))) == ["new"]


def test_older_requests_of_a_full_server_are_served_before_it_is_drained_for_another():
    play = Play(IMPATIENT, total_gib=16)
    for _ in range(2):
        play.ask(a_model("busy", gib=10, slots=1))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("new", gib=10), at=1.0)
    play.post(ev.Tick(at=6.0))
    assert play.state.server(1).state is ServerState.READY
    assert grants(play.post(ev.Release(1, at=7.0))) == {2: 1}
    assert play.state.server(1).state is ServerState.DRAINING


def test_memory_of_a_stopping_server_is_not_free_and_causes_no_other_eviction():
    play = Play(total_gib=16)
    a, b = play.up(a_model("a", gib=6), at=0.0), play.up(a_model("b", gib=6), at=1.0)
    assert stopped(play.ask(a_model("c", gib=6), at=2.0)) == [a]
    assert play.post(ev.Tick(at=2.5)) == []
    assert play.state.server(b).state is ServerState.READY


def test_a_request_for_a_stopping_model_waits_and_loads_it_again():
    """A peer answered 502, or hung for ever, when a request met its model's unload (llama-swap issue 946)."""
    play = Play(SchedulingLimits(ttl_seconds=10))
    play.up(a_model(), at=0.0)
    assert stopped(play.post(ev.Tick(at=10.0))) == [1]
    assert play.ask(a_model(), at=10.1) == []
    assert spawned(play.post(ev.Exited(1, "", at=10.2))) == ["a"]


def test_a_model_that_never_fits_is_rejected_with_the_numbers():
    play = Play(total_gib=16)
    (effect,) = play.ask(a_model(gib=20))
    assert isinstance(effect, Refuse)
    assert effect.refusal.reason is Reason.DOES_NOT_FIT
    assert effect.refusal.needed_bytes == 23 * 1024**3  # 20 GiB + 15 %
    assert effect.refusal.free_bytes == {CPU: 16 * 1024**3}


def test_a_model_is_rejected_while_other_processes_hold_the_memory():
    play = Play(answers_readings=False)
    play.ask(a_model("big", gib=10))
    effects = play.post(ev.MemoryRead(memory(at=0.0, available_gib=4, total_gib=16), at=0.0))
    assert refusals(effects) == {1: Reason.INSUFFICIENT_MEMORY}
    assert stopped(effects) == []


def test_an_idle_server_is_stopped_after_its_ttl_and_not_before():
    play = Play(SchedulingLimits(ttl_seconds=60))
    play.up(a_model(), at=5.0)
    assert due_at(play.state) == 65.0
    assert play.post(ev.Tick(at=64.9)) == []
    assert stopped(play.post(ev.Tick(at=65.0))) == [1]


def test_a_busy_server_has_no_ttl():
    play = Play(SchedulingLimits(ttl_seconds=60))
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0))
    assert play.post(ev.Tick(at=1000.0)) == []


def test_a_load_that_progresses_is_never_stopped_and_one_that_stalls_is():
    play = Play(SchedulingLimits(stall_timeout_seconds=30))
    play.ask(a_model(), patience=10_000)
    for at in range(25, 200, 25):
        assert play.post(ev.Progress(1, at=float(at))) == []
    effects = play.post(ev.Tick(at=205.0))  # 30 s after the last progress at 175
    assert refusals(effects) == {1: Reason.LOAD_TIMEOUT}
    assert stopped(effects) == [1]


def test_a_ready_event_after_the_stop_order_changes_nothing():
    play = Play(SchedulingLimits(stall_timeout_seconds=30))
    play.ask(a_model(), patience=10_000)
    play.post(ev.Tick(at=30.0), ev.Ready(1, 9001, at=30.1))
    assert play.state.server(1).state is ServerState.STOPPING


def test_a_wait_ends_at_its_deadline():
    play = Play()
    play.ask(a_model(), patience=20.0)
    assert due_at(play.state) == 20.0
    (refuse,) = play.post(ev.Tick(at=20.0))
    assert isinstance(refuse, Refuse) and refuse.refusal.reason is Reason.WAIT_TIMEOUT
    assert refuse.refusal.detail == "timed out after 20 s (scheduling.max_wait_seconds) waiting for it to load"


def test_a_wait_timeout_says_what_the_request_waited_for():
    play = Play(IMPATIENT, total_gib=12)
    slots = play.ask(a_model("a", gib=10, slots=1))
    assert spawned(slots) == ["a"]
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("a", gib=10, slots=1), patience=7.0)
    play.ask(a_model("b", gib=10), patience=7.0)
    play.ask(a_model("a"), patience=7.0, command=ev.Unload)
    details = [each.refusal.detail for each in play.post(ev.Tick(at=7.0)) if isinstance(each, Refuse)]
    assert [each.partition(" waiting for ")[2] for each in details] == [
        "a free slot",
        "memory to load it; see GET /decisions?model=b",
        "its running requests to finish",
    ]


def test_the_queue_is_limited_per_model_and_in_total():
    play = Play(SchedulingLimits(max_waiting=3, max_waiting_per_model=2))
    effects = [e for name in "aaabb" for e in play.ask(a_model(name))]
    assert refusals(effects) == {3: Reason.QUEUE_FULL, 5: Reason.OVERLOADED}
    assert [str(error_for(each.refusal)) for each in effects if isinstance(each, Refuse)] == [
        "a: 2 requests are waiting for it already (scheduling.max_waiting_per_model)",
        "3 requests are waiting already (scheduling.max_waiting)",
    ]


def test_a_free_slot_is_granted_even_when_the_queue_is_full():
    play = Play(SchedulingLimits(max_waiting=1))
    play.up(a_model("a"))
    play.ask(a_model("b"))
    assert grants(play.ask(a_model("a"))) == {3: 1}


def test_a_drain_rejects_waiters_finishes_running_requests_and_stops_the_rest():
    play = Play(total_gib=64)
    idle = play.up(a_model("idle"))
    play.ask(a_model("busy"))
    play.post(ev.Ready(2, 9002, at=0.0))
    play.ask(a_model("cold"))
    effects = play.post(ev.Drain(at=1.0))
    assert refusals(effects) == {3: Reason.DRAINING}
    assert stopped(effects) == [idle, 3]
    assert play.state.server(2).state is ServerState.READY
    assert refusals(play.ask(a_model("busy"), at=2.0)) == {4: Reason.DRAINING}
    assert stopped(play.post(ev.Release(2, at=3.0))) == [2]


def test_close_stops_even_busy_servers():
    play = Play()
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Drain(at=1.0))
    assert stopped(play.post(ev.Close(at=2.0))) == [1]


def test_settling_twice_is_settling_once():
    play = Play(total_gib=16)
    play.up(a_model("a", gib=10))
    play.ask(a_model("b", gib=10), at=1.0)
    before = play.state
    assert play.post(ev.Tick(at=1.0)) == []
    assert play.state == before


def test_a_server_cannot_exit_twice():
    with pytest.raises(AssertionError, match="exited twice"):
        step(PoolState(), ev.Exited(1, "", at=0.0))


def test_a_transition_that_is_not_in_the_table_is_a_bug():
    play = Play()
    play.up(a_model())
    with pytest.raises(AssertionError, match="ready -> starting"):
        play.state.servers[0].with_state(ServerState.STARTING)


def test_an_abandoned_slot_is_not_granted_until_the_engine_reports_it_free():
    play = Play(SchedulingLimits(first_slot_check_seconds=0.25, slot_check_seconds=1.5))
    play.ask(a_model(slots=1))
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_STREAMING))
    assert grants(play.ask(a_model(slots=1), at=1.1)) == {}
    assert play.post(ev.Tick(at=1.25)) == [CheckServer(1, counts_slots=True)]
    assert play.post(ev.ServerChecked(1, busy=1, requested_at=1.25, at=1.5)) == [], "it has five seconds to notice"
    assert play.post(ev.Tick(at=2.5)) == [], "asking it all the time would keep llama-server from noticing"
    assert play.post(ev.Tick(at=3.0)) == [CheckServer(1, counts_slots=True)]
    assert grants(play.post(ev.ServerChecked(1, busy=0, requested_at=3.0, at=3.1))) == {2: 1}


def test_an_engine_abandoned_in_silence_is_not_asked_before_it_looks_itself():
    play = Play(SchedulingLimits(first_slot_check_seconds=0.25, slot_check_seconds=1.5))
    play.ask(a_model(slots=1))
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert due_at(play.state) == 2.5


def test_of_many_abandoned_slots_the_free_ones_are_granted():
    """If 128 clients of a server with 256 slots disconnect at once, it must not be halved until the last is noticed."""
    play = Play(SchedulingLimits(first_slot_check_seconds=0.2))
    for _ in range(4):
        play.ask(a_model(slots=4))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.post(
        *(ev.Release(ticket, at=1.0, ending=ev.Ending.ABORTED_WHILE_STREAMING) for ticket in (1, 2, 3)), ev.Tick(at=1.2)
    )
    play.post(ev.ServerChecked(1, busy=2, requested_at=1.2, at=1.25))
    assert play.state.server(1).abandoned_slots == 1
    assert grants(play.ask(a_model(slots=4), at=1.3)) == {5: 1}


def test_an_engine_gets_less_time_to_notice_when_it_has_nothing_to_write():
    play = Play(SchedulingLimits(disconnect_notice_seconds=5, silent_disconnect_notice_seconds=0.05))
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT))
    assert due_at(play.state) == 1.05


def abandoned_slots(busy: int | None, requested_at: float, **limits: float) -> tuple[Play, list[Effect]]:
    """A server whose only client disconnected at 1.0 and that then reported its busy slots."""
    play = Play(SchedulingLimits(disconnect_notice_seconds=5, slot_check_seconds=5, **limits))
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT), ev.Tick(at=6.0))
    return play, play.post(ev.ServerChecked(1, busy=busy, requested_at=requested_at, at=6.1))


def test_a_server_that_generates_for_nobody_is_stopped():
    assert stopped(abandoned_slots(busy=1, requested_at=6.0)[1]) == [1]


def test_a_server_that_stopped_generating_is_kept_and_not_asked_again():
    play, effects = abandoned_slots(busy=0, requested_at=6.0)
    assert effects == []
    assert play.post(ev.Tick(at=100.0)) == []


def test_a_server_that_does_not_answer_is_asked_again():
    play, effects = abandoned_slots(busy=None, requested_at=6.0)
    assert effects == []
    assert play.post(ev.Tick(at=11.1)) == [CheckServer(1, counts_slots=True)]


def test_a_count_from_before_the_last_request_ended_stops_nothing():
    play = Play(SchedulingLimits(disconnect_notice_seconds=5, slot_check_seconds=5))
    for _ in range(2):
        play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT), ev.Tick(at=6.0))
    play.post(ev.Release(2, at=6.05))
    assert play.post(ev.ServerChecked(1, busy=1, requested_at=6.0, at=6.1)) == []


def test_a_server_that_also_serves_another_request_is_not_stopped():
    play = Play(SchedulingLimits(disconnect_notice_seconds=5, slot_check_seconds=5))
    for _ in range(2):
        play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, ending=ev.Ending.ABORTED_WHILE_SILENT), ev.Tick(at=6.0))
    assert play.post(ev.ServerChecked(1, busy=2, requested_at=6.0, at=6.1)) == []
    assert play.post(ev.Tick(at=11.1)) == [CheckServer(1, counts_slots=True)]


def test_a_server_drained_for_a_canceled_request_accepts_requests_again():
    play = Play(IMPATIENT, total_gib=16)
    play.ask(a_model("busy", gib=10))
    play.post(ev.Ready(1, 9001, at=0.0))
    play.ask(a_model("new", gib=10), at=1.0)
    play.post(ev.Tick(at=6.0))
    assert play.state.server(1).state is ServerState.DRAINING
    play.post(ev.Cancel(2, at=7.0))
    assert grants(play.ask(a_model("busy", gib=10), at=8.0)) == {3: 1}


def test_a_request_waits_for_a_load_that_is_in_its_way():
    """Half loaded: 8 GiB are taken already, and only a ready server can be evicted."""
    play = Play(answers_readings=False)
    play.ask(a_model("a", gib=9))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    play.ask(a_model("b", gib=9), at=1.0)
    assert play.post(ev.MemoryRead(memory(at=1.0, available_gib=8, held={1: 8}), at=1.0)) == []
    assert [w.ticket for w in play.state.waiting] == [1, 2]


def test_no_model_is_evicted_in_vain():
    """Other processes hold what is missing: evicting `a` would free what it holds, not what was booked for it."""
    play = Play(answers_readings=False)
    play.ask(a_model("a", gib=8))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0), ev.Ready(1, 9001, at=1.0), ev.Release(1, at=1.0))
    play.ask(a_model("big", gib=12), at=2.0)
    effects = play.post(ev.MemoryRead(memory(at=2.0, available_gib=3, held={1: 5}), at=2.0))
    assert refusals(effects) == {2: Reason.INSUFFICIENT_MEMORY}
    assert stopped(effects) == []


def test_a_failed_memory_reading_rejects_the_load():
    play = Play(answers_readings=False)
    play.up_without_readings(a_model("up"))
    play.ask(a_model("cold"), at=2.0)
    effects = play.post(ev.MemoryReadFailed("too many open files", at=2.1))
    assert refusals(effects) == {2: Reason.SPAWN_FAILED}
    assert play.ask(a_model("other"), at=3.0) == [ReadMemory()], "the next request tries again"
