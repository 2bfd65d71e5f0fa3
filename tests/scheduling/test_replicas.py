"""Replicas: when one is started and where, which one a request gets, which one is stopped."""

from __future__ import annotations

import itertools

import pytest

from app.entities.gpu import GpuState
from app.entities.model import Model, Replicas
from app.entities.placement import CPU, CpuFallback, Outcome, PlacementConstraints
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.reporting.model_list import model_entry, model_list
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Done, ReadMemory
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.load_balancing import MAX_CONVERSATIONS
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import GIB, Play, a_model, a_placement_request, booked, memory, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from tests.scheduling.test_schedule import grants, refusals, spawned, stopped
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore


def a_replicated(name: str = "a", gib: float = 4.0, slots: int = 1, low: int = 1, high: int = 2) -> Model:
    return replace(a_model(name, gib=gib, slots=slots), replicas=Replicas(low, high))


def saturated(model: Model, play: Play, at: float = 10.0, load_seconds: float = 0.0) -> Play:
    """One server whose slots are all busy since `at`, and one more request that waits."""
    play.ask(model, at=0.0)
    play.post(ev.Ready(1, 9001, at=load_seconds), ev.Release(play._ticket, at=load_seconds))
    for _ in range(model.launch.options.parallel + 1):
        play.ask(model, at=at)
    assert len(play.state.waiting) == 1
    return play


def with_two(play: Play, model: Model, at: float = 20.0) -> None:
    """Two idle servers of this model, both used last at `at`."""
    first = play._ticket + 1
    saturated(model, play)
    play.post(ev.Tick(at=12.0), ev.Ready(2, 9002, at=12.0))
    for ticket in range(first + 1, play._ticket + 1):
        play.post(ev.Release(ticket, at=at))
    assert [server.is_idle for server in play.state.servers_of(model.name)] == [True, True]


def ask(play: Play, model: Model, conversation: int | None, at: float) -> int | None:
    """The id of the server that a request of this conversation is granted; None: it waits."""
    play._ticket += 1
    command = ev.Acquire(play._ticket, model, at, at + 300, a_placement_request(booked(model)), conversation)
    return grants(play.post(command)).get(play._ticket)


# --- when one is started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load_seconds", "patience"), [(0.5, 2.0), (7.0, 7.0), (200.0, 30.0)])
def test_a_replica_starts_once_requests_have_waited_as_long_as_a_load_takes(load_seconds: float, patience: float):
    at = 1000.0
    play = saturated(a_replicated(), Play(SchedulingLimits(ttl_seconds=5000)), at, load_seconds)
    assert due_at(play.state) == at + patience
    assert spawned(play.post(ev.Tick(at=at + patience - 0.1))) == []
    assert spawned(play.post(ev.Tick(at=at + patience))) == ["a"]
    assert grants(play.post(ev.Ready(2, 9002, at=at + 40))) == {3: 2}
    assert play.decided[-1].decision.reason == "server 2 of 2: no GPU can be used; fits in RAM"


def test_a_queue_that_ends_in_time_starts_no_replica():
    play = saturated(a_replicated(), Play())
    play.post(ev.Release(2, at=11.0))  # the waiter gets the slot
    play.ask(a_replicated(), at=11.5)
    assert due_at(play.state) == 13.5
    assert spawned(play.post(ev.Tick(at=12.5))) == []


def test_there_are_never_more_than_max_servers():
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0), ev.Ready(2, 9002, at=12.0))
    for _ in range(3):
        play.ask(a_replicated(), at=12.0)
    assert spawned(play.post(ev.Tick(at=100.0))) == []


def test_replicas_start_one_at_a_time():
    play = saturated(a_replicated(high=3), Play())
    for _ in range(3):
        play.ask(a_replicated(high=3), at=10.0)
    assert spawned(play.post(ev.Tick(at=12.0), ev.Tick(at=50.0))) == ["a"]
    play.post(ev.Ready(2, 9002, at=51.0))
    # That load took 39 s, so the queue must last 30 s from when all slots were busy again.
    assert due_at(play.state) == 81.0
    assert spawned(play.post(ev.Tick(at=81.0))) == ["a"]


def test_a_model_without_replicas_has_one_server_however_many_requests_wait():
    play = saturated(a_model(slots=1), Play())
    assert play.state.saturated_since == {}
    assert spawned(play.post(ev.Tick(at=100.0))) == []


def test_min_replicas_start_one_after_the_other():
    play = Play()
    assert spawned(play.ask(a_replicated(low=3, high=3), command=ev.Load)) == ["a"]
    assert spawned(play.post(ev.Ready(1, 9001, at=1.0), ev.Tick(at=1.5))) == ["a"]
    assert spawned(play.post(ev.Ready(2, 9002, at=2.0), ev.Tick(at=2.5))) == ["a"]
    assert spawned(play.post(ev.Ready(3, 9003, at=3.0), ev.Tick(at=4.0))) == []


# --- placement --------------------------------------------------------------------------------------------------


def test_nothing_is_evicted_for_a_replica():
    play = Play(SchedulingLimits(ttl_seconds=60), total_gib=16)
    play.up(a_model("other", gib=9), at=0.0)
    model = a_replicated(low=2)
    server = play.up(model, at=1.0)
    assert [each.id for each in play.state.servers] == [1, server]
    decision = play.decided[-1].decision
    assert (decision.outcome, decision.evict) == (Outcome.WAIT, ())
    assert decision.reason == "server 2 of 2: not enough free memory, and nothing is evicted for a replica"
    play.ask(model, at=59.0)
    assert stopped(play.post(ev.Tick(at=60.0))) == [1]
    assert spawned(play.post(ev.Exited(1, "", at=61.0))) == ["a"]


def test_a_place_for_a_replica_is_searched_again_when_memory_changes():
    play = Play(total_gib=16)
    play._total_gib = 9  # of the machine; other processes hold the rest
    model = a_replicated(low=2)  # 4.6 GiB each
    play.up(model)
    assert len(play.decided) == 2, "a place for the first server, none for the second"
    for second in range(1, 30):
        play.post(ev.Tick(at=float(second)))
    assert len(play.decided) == 2, "nothing is decided twice on the same facts"
    play._total_gib = 10
    assert spawned([effect for second in range(30, 41) for effect in play.post(ev.Tick(at=float(second)))]) == ["a"]


def test_a_place_for_a_replica_is_searched_again_after_a_load_has_waited():
    """One evaluation serves loads and replicas: that of a waiting load replaces the search for a replica."""
    play = Play(total_gib=16)
    play.up(a_model("other", gib=9), at=0.0)
    play.up(a_replicated(low=2), at=1.0)
    play.ask(a_model("other", gib=9), at=2.0)  # busy
    decided = len(play.decided)
    play.ask(a_model("new", gib=9), at=3.0)
    play.post(ev.Cancel(play._ticket, at=4.0), ev.Tick(at=5.0))
    assert [each.model for each in play.decided[decided:]] == ["new", "a"]
    assert play.state.evaluation.replicas == ("a",)


def test_failed_readings_are_not_requested_again_at_once():
    play = Play(answers_readings=False)
    play.ask(a_replicated(low=2))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    assert play.post(ev.Ready(1, 9001, at=5.0))[-1] == ReadMemory()
    assert play.post(ev.MemoryReadFailed("no", at=5.0), ev.Tick(at=6.0)) == []
    assert play.post(ev.Tick(at=due_at(play.state))) == [ReadMemory()]


def test_loads_of_other_models_come_before_replicas():
    play = Play(total_gib=24)
    play.up(a_model("pinned", gib=9), at=0.0)
    play.ask(a_model("pinned", gib=9), at=1.0)  # busy: 10.4 GiB
    server = play.state.servers[0].id
    model = a_replicated(gib=2, low=2)
    play.ask(a_model("large", gib=15), at=2.0)  # waits for it
    play.ask(model, at=3.0)
    play.post(ev.Ready(2, 9002, at=4.0))
    assert [each.model.name for each in play.state.servers] == ["pinned", "a"], "a replica would fit"
    assert due_at(play.state) > 4.0, "no tick without effect"
    play.post(ev.Cancel(3, at=5.0))
    assert [each.model.name for each in play.state.servers] == ["pinned", "a", "a"]
    assert play.state.server(server).state is ServerState.READY


def test_a_replica_prefers_another_gpu():
    for gib in (6, 24):
        first, second = gpu_pair(GpuPlay(Hardware({"GPU-a": gib, "GPU-b": gib})))
        assert {first.placement.uuids, second.placement.uuids} == {("GPU-a",), ("GPU-b",)}
    first, second = gpu_pair(GpuPlay(Hardware({"GPU-a": 24, "GPU-b": 2})))
    assert first.placement.uuids == second.placement.uuids == ("GPU-a",), "one GPU is better than no replica"


def gpu_pair(
    play: GpuPlay, ctx_size: int = 4096, constraints: PlacementConstraints | None = None
) -> tuple[object, object]:
    """The two servers of a model with min 2; None for one that is not started."""
    constraints = constraints or PlacementConstraints()
    play._ticket += 1
    model = replace(a_replicated(low=2), constraints=constraints)
    play.post(play.polled(-0.5))
    play.post(ev.Acquire(play._ticket, model, 0.0, 300.0, eight_layers(ctx_size, constraints)))
    play.post(ev.Spawned(1, 1001, 0.0), ev.Ready(1, 9001, 0.0), play.polled(0.1), ev.Tick(at=0.2))
    first, second = (*play.state.servers, None)[:2]
    return first, second


def test_a_replica_starts_only_with_the_context_of_the_first_server():
    """A context of 32k takes 5.5 GiB of a GPU, including the reserve; 4k takes 4.6."""
    auto = PlacementConstraints(has_auto_context=True, max_gpus=1)
    first, second = gpu_pair(GpuPlay(Hardware({"GPU-a": 7, "GPU-b": 7})), constraints=auto)
    assert first.placement.ctx_size == second.placement.ctx_size == 32768
    first, second = gpu_pair(GpuPlay(Hardware({"GPU-a": 7, "GPU-b": 5.2})), constraints=auto)
    assert (first.placement.ctx_size, second) == (32768, None)


def test_a_replica_of_a_server_on_a_gpu_is_not_placed_on_the_cpu():
    play = GpuPlay(Hardware({"GPU-a": 6}), SchedulingLimits(cpu_fallback=CpuFallback.WHEN_FULL))
    first, second = gpu_pair(play, constraints=PlacementConstraints(cpu_when_full=True, partial_offload=True))
    assert (first.placement.uuids, second) == (("GPU-a",), None)


def test_a_replica_of_a_server_on_a_gpu_waits_for_lost_gpus():
    play = GpuPlay(
        Hardware({"GPU-a": 6, "GPU-b": 6}, other_gib={"GPU-b": 5}),
        SchedulingLimits(cpu_fallback=CpuFallback.WHEN_FULL),
    )
    gpu_pair(play)
    play.hardware.state = GpuState.LOST
    play.post(play.polled(1.0))
    for second in range(1, 40):
        play.post(play.polled(second), ev.Tick(at=float(second)))
    assert len(play.state.servers) == 1
    play.hardware.state, play.hardware.other_gib = GpuState.OK, {}
    for second in range(40, 60):
        play.post(play.polled(second), ev.Tick(at=float(second)))
    assert [each.placement.uuids for each in play.state.servers] == [("GPU-a",), ("GPU-b",)]


def test_no_replica_is_placed_while_memory_is_being_released():
    play = GpuPlay(Hardware({"GPU-a": 6, "GPU-b": 6}), SchedulingLimits(ttl_seconds=50))
    play.loaded("other")
    play._ticket += 1
    model = a_replicated(low=2)
    play.post(play.polled(9.5), ev.Acquire(play._ticket, model, 10.0, 300.0, eight_layers()))
    play.post(ev.Spawned(2, 1002, 10.0), ev.Ready(2, 9002, 10.0), play.polled(10.1), ev.Tick(at=10.2))
    decided = len(play.decided)
    assert stopped(play.post(ev.Tick(at=50.0))) == [1]
    play.post(play.polled(51.0))
    play.hardware.late_gib = {"GPU-a": 4}
    play.post(ev.Exited(1, "", at=51.5), play.polled(52.0))
    assert len(play.decided) == decided, "no decision while memory is being released"
    play.hardware.late_gib = {}
    assert spawned(play.post(play.polled(53.0))) == ["a"]


def test_a_replica_is_placed_by_what_the_first_server_was_measured_to_need():
    play, model = Play(total_gib=10), a_replicated(gib=4)  # 4.6 GiB are booked, 6 are measured
    saturated(model, play)
    play.post(ev.Measured(1, {CPU: 6 * GIB}, at=11.0))
    assert spawned(play.post(ev.Tick(at=12.0))) == []
    assert play.decided[-1].decision.needed_bytes == 6 * GIB


# --- load balancing ---------------------------------------------------------------------------------------------


def test_a_request_goes_to_the_least_busy_replica_of_equals_the_oldest():
    play, model = Play(), a_replicated(slots=3)
    with_two(play, model)
    assert [ask(play, model, None, at=21.0) for _ in range(6)] == [1, 2, 1, 2, 1, 2]


def test_a_conversation_stays_on_its_replica_while_that_has_a_free_slot():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    assert [ask(play, model, each, at=21.0) for each in (7, 8)] == [1, 2]
    play.post(ev.Release(play._ticket - 1, at=22.0))
    assert ask(play, model, 8, at=23.0) == 2, "although the other is idle"
    assert ask(play, model, 8, at=24.0) == 1, "all slots of the other are busy"
    play.post(ev.Release(play._ticket - 1, at=25.0), ev.Release(play._ticket, at=25.0))
    assert ask(play, model, 8, at=26.0) == 1, "where it was served last"
    assert ask(play, model, 7, at=27.0) == 1


def test_only_the_latest_conversations_are_remembered():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    for conversation in (*range(MAX_CONVERSATIONS), 0, MAX_CONVERSATIONS, MAX_CONVERSATIONS + 1):
        ask(play, model, conversation, at=21.0)
        play.post(ev.Release(play._ticket, at=21.0))
    assert list(play.state.conversations["a"]) == [
        *range(3, MAX_CONVERSATIONS),
        0,
        MAX_CONVERSATIONS,
        MAX_CONVERSATIONS + 1,
    ]


def test_a_conversation_whose_server_has_ended_moves_to_another():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    ask(play, model, None, at=21.0)
    assert ask(play, model, 7, at=21.0) == 2
    play.post(ev.Exited(2, "it crashed", at=22.0))
    assert ask(play, model, 7, at=23.0) == 1


# --- which is stopped -------------------------------------------------------------------------------------------


def test_a_replica_is_stopped_after_its_residency_and_the_last_server_after_its_ttl():
    play, model = Play(SchedulingLimits(ttl_seconds=100)), a_replicated(slots=2)
    with_two(play, model)
    ask(play, model, None, at=30.0)
    play.post(ev.Release(play._ticket, at=31.0))
    assert due_at(play.state) == 40.0, "the second one, unused since 20"
    assert stopped(play.post(ev.Tick(at=40.0))) == [2]
    play.post(ev.Exited(2, "", at=41.0))
    assert due_at(play.state) == 131.0
    assert stopped(play.post(ev.Tick(at=131.0))) == [1]


def test_of_two_idle_replicas_the_one_used_last_is_kept():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    ask(play, model, None, at=21.0)
    assert ask(play, model, 7, at=21.0) == 2
    play.post(ev.Release(play._ticket - 1, at=22.0), ev.Release(play._ticket, at=30.0))
    assert stopped(play.post(ev.Tick(at=42.0))) == [1]


def test_no_replica_within_min_is_stopped_while_another_is_in_use():
    play, model = Play(SchedulingLimits(ttl_seconds=100)), a_replicated(slots=4, low=2)
    play.up(model)
    play.post(ev.Ready(2, 9002, at=1.0))
    ask(play, model, None, at=2.0)
    assert due_at(play.state) is None
    assert stopped(play.post(ev.Tick(at=1000.0))) == []


def test_a_replica_is_kept_for_as_long_as_its_load_took():
    play, model = Play(), a_replicated()
    saturated(model, play)
    play.post(ev.Tick(at=12.0), ev.Ready(2, 9002, at=102.0), ev.Release(3, at=103.0))
    assert due_at(play.state) == 103.0 + 90.0


def test_replicas_within_min_are_stopped_together_by_the_last_use_of_any():
    play, model = Play(SchedulingLimits(ttl_seconds=100)), a_replicated(slots=4, low=2)
    play.up(model)
    play.post(ev.Ready(2, 9002, at=1.0))
    ask(play, model, None, at=90.0)
    play.post(ev.Release(play._ticket, at=91.0))
    assert play.state.server(2).last_used == 1.0
    assert due_at(play.state) == 191.0
    assert stopped(play.post(ev.Tick(at=191.0))) == [1, 2]


def test_the_last_keep_alive_applies_to_all_replicas():
    play, model = Play(), a_replicated(slots=4, low=2)
    play.up(model)
    play.post(ev.Ready(2, 9002, at=1.0))
    ask(play, model, None, at=2.0)
    assert stopped(play.post(ev.Release(play._ticket, at=3.0, keep_alive_seconds=0.0))) == [1, 2]


def test_pinned_replicas_beyond_min_are_stopped_when_idle():
    play, model = Play(), replace(a_replicated(), pin=True)
    with_two(play, model)
    assert stopped(play.post(ev.Tick(at=40.0))) == [2]
    play.post(ev.Exited(2, "", at=41.0))
    assert due_at(play.state) is None


def test_a_surplus_replica_is_evicted_at_once_and_first():
    play, model = Play(total_gib=24), a_replicated(gib=4)
    play.up(a_model("old", gib=4), at=0.0)
    saturated_at, first = 10.0, play._ticket + 1
    play.ask(model, at=1.0)
    play.post(ev.Ready(2, 9002, at=1.0), ev.Release(first, at=1.0))
    play.ask(model, at=saturated_at)
    play.ask(model, at=saturated_at)
    play.post(ev.Tick(at=12.0), ev.Ready(3, 9003, at=12.0), ev.Release(play._ticket, at=12.5))
    # 3 x 4.6 GiB; the second server of "a" was loaded and used half a second ago, "old" is no longer requested.
    assert stopped(play.ask(a_model("new", gib=12), at=13.0)) == [3]


def test_a_loading_replica_is_stopped_for_a_model_without_a_server():
    play = saturated(a_replicated(), Play(total_gib=16))
    play.post(ev.Tick(at=12.0))
    assert stopped(play.ask(a_model("new", gib=9), at=13.0)) == [2]
    assert spawned(play.post(ev.Exited(2, "", at=14.0))) == ["new"]


def test_the_last_server_of_a_pinned_model_is_never_evicted():
    """The check whether pinned models fit together counts one server of each."""
    play, model = Play(total_gib=16), replace(a_replicated(gib=4, low=2), pin=True)
    play.up(model, at=0.0)
    play.post(ev.Ready(2, 9002, at=1.0))
    assert stopped(play.ask(a_model("new", gib=9), at=2.0)) == [1], "the other one was used last"
    play.post(ev.Exited(1, "", at=3.0))
    assert refusals(play.ask(a_model("large", gib=12), at=4.0)) == {3: Reason.INSUFFICIENT_MEMORY}
    assert play.state.server(2).state is ServerState.READY


# --- unloads, changes, failures ---------------------------------------------------------------------------------


def test_an_unload_stops_all_replicas_and_completes_with_the_last():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    assert stopped(play.ask(model, at=30.0, command=ev.Unload)) == [1, 2]
    ticket = play._ticket
    assert play.post(ev.Exited(1, "", at=31.0)) == []
    assert play.post(ev.Exited(2, "", at=32.0)) == [Done(ticket)]


def test_an_unload_stops_a_loading_replica_and_rejects_no_request():
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    effects = play.ask(a_replicated(), at=13.0, command=ev.Unload)
    assert (stopped(effects), refusals(effects)) == ([2], {})
    assert play.state.server(1).state is ServerState.DRAINING


def test_a_changed_file_stops_all_replicas_and_starts_one_server():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    changed = replace(model, created=7)
    assert stopped(play.ask(changed, at=30.0)) == [1, 2]
    play.post(ev.Exited(1, "", at=31.0))
    assert spawned(play.post(ev.Exited(2, "", at=32.0))) == ["a"]


def test_a_failing_replica_rejects_no_request_and_is_retried_with_backoff():
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    failed, at, tries = [], 12.0, []
    for number in range(2, 6):
        failed += play.post(ev.Exited(number, "it crashed", at=at + 0.5))
        while len(play.state.servers) == 1:
            at = due_at(play.state)
            failed += play.post(ev.Tick(at=at))
        tries.append(at)
        at = max(at, 12.5)
    assert refusals(failed) == {}
    assert play.state.failures == {}
    # No pause after the first failure, 2 s after the second, then 4, then 8.
    assert [after - before for before, after in itertools.pairwise(tries[1:])] == [4.5, 8.5]


@pytest.mark.parametrize(
    "end", [ev.Exited(2, "no process", at=12.5, could_not_spawn=True), ev.Exited(2, "", 12.5, ran_out_of_memory=True)]
)
def test_requests_keep_waiting_when_a_replica_cannot_be_started(end: ev.Exited):
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    effects = play.post(end)
    assert refusals(effects) == {}
    assert not any(waiting.is_replanned for waiting in play.state.waiting)
    assert grants(play.post(ev.Release(2, at=13.0))) == {3: 1}


def test_a_replica_that_cannot_be_spawned_is_retried_with_backoff():
    """At once, it would be tried again and again while no process is left."""
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    for number, at in ((2, 12.5), (3, 13.0)):
        play.post(ev.Exited(number, "no process", at=at, could_not_spawn=True), ev.Tick(at=at + 0.1))
    assert play.state.backoffs["a"].until == 15.0
    assert len(play.state.servers) == 1


def test_a_stalled_replica_is_stopped_and_rejects_no_request():
    play = saturated(a_replicated(), Play(SchedulingLimits(stall_timeout_seconds=20)))
    play.post(ev.Tick(at=12.0))
    effects = play.post(ev.Tick(at=32.0))
    assert (stopped(effects), refusals(effects), play.state.failures) == ([2], {}, {})


def test_a_replica_that_reports_more_is_aborted_and_the_next_is_placed_by_that():
    play = saturated(a_replicated(), Play(total_gib=10))
    play.post(ev.Tick(at=12.0))
    effects = play.post(ev.Projected(2, {CPU: 6 * GIB}, at=12.1))
    assert (stopped(effects), refusals(effects), play.state.failures) == ([2], {}, {})
    effects = play.post(ev.Exited(2, "", at=13.0), ev.Tick(at=60.0))
    assert spawned(effects) == []
    assert play.decided[-1].decision.needed_bytes == 6 * GIB


def test_when_one_replica_crashes_the_other_serves_alone():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    play.post(ev.Exited(1, "it crashed", at=30.0))
    assert play.state.failures == {}
    assert ask(play, model, None, at=31.0) == 2
    assert play.state.placement_request_of(model) is not None


def test_server_of_prefers_a_server_that_answers():
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    assert play.state.server_of("a").id == 1
    play.post(ev.Ready(2, 9002, at=13.0))
    play.ask(a_replicated(), at=14.0, command=ev.Unload)
    play.post(ev.Release(2, at=15.0))
    assert [each.state for each in play.state.servers] == [ServerState.STOPPING, ServerState.DRAINING]
    assert play.state.server_of("a").id == 2


# --- reporting --------------------------------------------------------------------------------------------------


def test_model_lists_show_the_number_of_instances_and_the_best_state():
    play = saturated(a_replicated(), Play())
    play.post(ev.Tick(at=12.0))
    one, other = model_list([a_replicated(), a_model("b")], play.state, (), lambda model: None)["data"]
    loaded = {"value": "loaded", "ctx_size": 4096, "instances": 2}
    assert (one["status"], other["status"]) == (loaded, {"value": "unloaded"})
    play.post(ev.Release(2, at=12.5), ev.Release(3, at=12.6), ev.Exited(1, "it crashed", at=13.0))
    assert model_entry(a_replicated(), play.state, (), lambda model: None)["status"] == {
        "value": "loading",
        "ctx_size": 4096,
        "instances": 1,
    }
    play.ask(a_replicated(), at=14.0, command=ev.Unload)
    listed = model_entry(a_replicated(), play.state, (), lambda model: None)
    assert listed["status"] == {"value": "unloaded", "instances": 0}


def test_metrics_of_a_model_are_summed_over_its_servers():
    play, model = Play(), a_replicated(slots=2)
    with_two(play, model)
    play.post(ev.Measured(1, {CPU: 2 * GIB}, at=21.0), ev.Measured(2, {CPU: 3 * GIB}, at=21.0))
    text = Gauges(StateStore(play.state), "1").render("")[0].decode()
    series = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert len(series) == sum(not line.startswith("#") for line in text.splitlines()), "no series comes twice"
    booked_bytes = float(series['llama_smart_proxy_server_memory_bytes{gpu="cpu",model="a"}'])
    assert booked_bytes == 5 * GIB
    # Estimated 4.6 GiB each, 9.2 together; measured 5.
    assert round(float(series['llama_smart_proxy_estimate_error_ratio{model="a"}']), 2) == 0.84
    assert series['llama_smart_proxy_server_state{model="a",server="2",state="ready"}'] == "1.0"
