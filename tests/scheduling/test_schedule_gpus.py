"""The scheduler on GPUs: readings, placements, evictions and missing GPUs, each rule as a list of events."""

from __future__ import annotations

import pytest

from app.entities.gpu import GpuState, MissingGpu
from app.entities.launch import ModelOptions
from app.entities.placement import CPU, CpuFallback, GpuLimits, Outcome, PlacementConstraints
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.placement.releasing import RELEASE_TIMEOUT_SECONDS
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, ReadGpus, Refuse, Spawn
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.readings import GPU_READING_TIMEOUT_SECONDS
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import GIB, a_model, a_placement_request, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from tests.scheduling.test_schedule import IMPATIENT, grants, refusals, spawned, stopped

MARGIN = 256 * 1024**2
# A model takes some 4.6 GiB; half a GiB of each GPU is reserved.
ONE, TWO = Hardware({"GPU-a": 6}), Hardware({"GPU-a": 6, "GPU-b": 6})


def play_on(hardware: Hardware, limits: SchedulingLimits | None = None, **more: bool) -> GpuPlay:
    play = GpuPlay(replace(hardware), limits, **more)
    play.post(play.polled(at=-1.0))
    return play


def where(effects: list[Effect]) -> list[tuple[str, ...]]:
    return [effect.server.placement.uuids for effect in effects if isinstance(effect, Spawn)]


def outcomes(play: GpuPlay) -> list[Outcome]:
    return [each.decision.outcome for each in play.decided]


def test_a_cold_model_goes_to_a_gpu_that_was_just_read():
    play = play_on(ONE)
    assert where(play.request("a")) == [("GPU-a",)]
    (server,) = play.state.servers
    assert play.polls == 1
    assert set(server.booked) == {"GPU-a", CPU} and 4 * GIB < server.booked["GPU-a"] < 5 * GIB


def test_a_machine_without_gpus_requests_no_gpu_reading():
    play = GpuPlay(Hardware({}))
    assert where(play.request("a")) == [(CPU,)]
    assert play.polls == 0


def test_simultaneous_models_are_never_placed_in_the_same_memory():
    play = play_on(TWO)
    effects = [*play.request("a"), *play.request("b"), *play.request("c")]
    assert sorted(where(effects)) == [("GPU-a",), ("GPU-b",)]
    assert outcomes(play)[-1] is Outcome.WAIT


def test_a_late_gpu_reading_is_waited_for_briefly_then_the_last_one_is_used():
    play = play_on(ONE, answers_polls=False)
    assert play.request("a") == [ReadGpus()]
    assert due_at(play.state) == GPU_READING_TIMEOUT_SECONDS
    assert play.post(ev.Tick(at=GPU_READING_TIMEOUT_SECONDS - 0.001)) == []
    assert where(play.post(ev.Tick(at=GPU_READING_TIMEOUT_SECONDS))) == [("GPU-a",)]
    assert due_at(play.state) != GPU_READING_TIMEOUT_SECONDS, "the timeout has passed"


def test_a_request_before_the_first_reading_waits_for_it():
    play = GpuPlay(replace(ONE, state=GpuState.UNREAD), answers_polls=False)
    play.post(play.polled(at=0.0))
    assert play.request("a", at=0.1) == [ReadGpus()]
    assert play.post(ev.Tick(at=1.0)) == []
    play.hardware.state = GpuState.OK
    assert where(play.post(play.polled(at=2.0))) == [("GPU-a",)]


def test_a_first_reading_that_never_arrives_is_not_waited_for_for_ever():
    play = GpuPlay(replace(ONE, state=GpuState.UNREAD), answers_polls=False)
    play.post(play.polled(at=0.0))
    play.request("a", at=0.1)
    play.post(ev.Tick(at=0.1 + GPU_READING_TIMEOUT_SECONDS))
    due = due_at(play.state)
    assert due == 5.0
    assert refusals(play.post(ev.MemoryRead(replace(play.state.memory, at=due), due))) == {1: Reason.NO_GPU}


@pytest.mark.parametrize(
    ("fallback", "answer"),
    [(CpuFallback.AUTO, Reason.NO_GPU), (CpuFallback.NEVER, Reason.NO_GPU), (CpuFallback.WHEN_FULL, CPU)],
)
def test_while_gpus_are_missing_the_cpu_is_used_only_when_configured(fallback: CpuFallback, answer: str):
    lost = replace(ONE, state=GpuState.LOST, expected="one was here")
    play = play_on(lost, SchedulingLimits(cpu_fallback=fallback))
    effects = play.request("a", constraints=PlacementConstraints(cpu_when_full=fallback is CpuFallback.WHEN_FULL))
    assert (where(effects), refusals(effects)) == (([(CPU,)], {}) if answer == CPU else ([], {1: answer}))
    assert outcomes(play) == [Outcome.PLACE if answer == CPU else Outcome.REFUSE], "every decision is recorded"


@pytest.mark.parametrize(("fallback", "answer"), [(CpuFallback.AUTO, CPU), (CpuFallback.NEVER, Reason.NO_GPU)])
@pytest.mark.parametrize("hardware", [replace(ONE, engine_problem="no CUDA"), Hardware({}, state=GpuState.NO_LIBRARY)])
def test_an_engine_without_cuda_and_a_machine_without_gpus_use_the_cpu(
    hardware: Hardware, fallback: CpuFallback, answer: str
):
    effects = play_on(hardware, SchedulingLimits(cpu_fallback=fallback)).request("a")
    assert (where(effects), refusals(effects)) == (([(CPU,)], {}) if answer == CPU else ([], {1: answer}))


def test_a_model_without_gpu_layers_needs_no_gpu():
    play = play_on(
        replace(ONE, state=GpuState.LOST, expected="one was here"), SchedulingLimits(cpu_fallback=CpuFallback.NEVER)
    )
    on_cpu = replace(eight_layers(), options=replace(eight_layers().options, n_gpu_layers=0))
    assert where(play.post(ev.Acquire(1, a_model(), 0.0, 300.0, on_cpu))) == [(CPU,)]


def test_a_model_that_has_just_loaded_is_not_evicted_for_one_that_fits_beside_it():
    """In a container pids are hidden: its memory was no longer free and still claimed, so it was stopped again."""
    play = play_on(Hardware({"GPU-a": 12}, shows_pids=False))
    play.request("a")
    play.hardware.other_gib = {"GPU-a": 4.6}  # its own memory
    assert where(play.request("b", at=1.0)) == []
    play.hardware.other_gib, play.answers_polls = {}, False
    play.post(ev.Ready(1, 9001, at=2.0))
    assert play.state.server(1).state is ServerState.READY
    assert where(play.post(play.polled(at=2.1))) == [("GPU-a",)]
    assert play.state.server(1).state is ServerState.READY


def test_the_memory_of_an_evicted_server_is_waited_for():
    """It has ended at 10.5; the driver shows its memory as free at 11.2."""
    play = play_on(ONE)
    old = play.loaded("old")
    assert stopped(play.request("new", at=10.0)) == [old.id]
    play.hardware.late_gib = {"GPU-a": old.booked["GPU-a"] / GIB}
    assert play.post(ev.Exited(old.id, "", at=10.5)) == []
    due = due_at(play.state)
    assert due is not None and due <= 10.7, "the GPUs are polled"
    assert play.post(ev.Tick(at=due)) == []
    play.hardware.late_gib = {}
    assert where(play.post(ev.Tick(at=11.2))) == [("GPU-a",)]


def test_a_server_is_shown_with_nvmls_present_indices():
    play = play_on(TWO)
    server = play.loaded("a", constraints=PlacementConstraints(gpus=("GPU-b",)))
    assert server.placement.device == "cuda:1"
    play.hardware.total_gib = {"GPU-b": 6}
    play.post(play.polled(at=1.0))
    assert play.state.server(server.id).placement.device == "cuda:0"
    play.hardware.total_gib = {}
    play.post(play.polled(at=2.0))
    assert play.state.server(server.id).placement == replace(server.placement, indices=(0,)), "its GPU is missing"


def test_memory_that_is_not_released_belongs_to_another_process():
    play = play_on(ONE)
    old = play.loaded("old")
    play.request("new", at=10.0)
    play.hardware.other_gib = {"GPU-a": old.booked["GPU-a"] / GIB}
    effects = play.post(ev.Exited(old.id, "", at=10.5))
    while (due := due_at(play.state)) and due < 60 and not effects:
        effects = play.post(ev.Tick(at=due))
        assert due <= 10.5 + RELEASE_TIMEOUT_SECONDS
    assert refusals(effects) == {2: Reason.INSUFFICIENT_MEMORY}


def test_memory_released_before_the_exit_event_is_not_waited_for():
    """The driver was fast, and a reading came before the exit: the load after next waited five seconds for nothing."""
    play = play_on(ONE)
    old = play.loaded("old")
    assert stopped(play.request("new", at=10.0)) == [old.id]
    assert where(play.post(ev.GpusPolled(play.hardware.snapshot((), at=10.2), at=10.2))) == [("GPU-a",)]
    play.post(
        ev.Exited(old.id, "", at=10.3), ev.Spawned(2, 1002, at=10.5), ev.Ready(2, 9002, at=10.6), ev.Release(2, at=10.7)
    )
    assert stopped(play.request("third", at=11.0)) == [2]


def test_memory_being_released_causes_no_other_eviction():
    play = play_on(TWO)
    first, second = play.loaded("first"), play.loaded("second", at=1.0)
    assert stopped(play.request("new", at=100.0)) == [first.id]
    assert stopped(play.post(ev.Tick(at=100.1))) == []
    play.hardware.late_gib = {first.placement.uuids[0]: first.booked[first.placement.uuids[0]] / GIB}
    assert stopped(play.post(ev.Exited(first.id, "", at=100.2))) == []
    assert play.state.server(second.id).state is ServerState.READY


def test_a_busy_server_in_the_way_is_drained():
    play = play_on(ONE, IMPATIENT)
    play.request("busy")
    play.post(ev.Ready(1, 9001, at=0.0))
    assert play.request("new", at=1.0) == []
    play.post(play.polled(at=6.0))
    assert play.state.server(1).state is ServerState.DRAINING
    assert stopped(play.post(ev.Release(1, at=7.0))) == [1]
    assert spawned(play.post(ev.Exited(1, "", at=8.0))) == ["new"]


@pytest.mark.parametrize("constraints", [PlacementConstraints(cpu_when_full=True), PlacementConstraints()])
def test_a_draining_server_is_not_waited_for_if_there_is_another_place(constraints: PlacementConstraints):
    """It is being unloaded in the middle of a long answer. The CPU will do, or the memory of an idle server."""
    play = play_on(TWO)
    busy, idle = play.loaded("a"), play.loaded("b")
    play.post(ev.Acquire(50, a_model("a"), 0.5, 300.0, eight_layers()), ev.Unload(51, a_model("a"), 0.6, 300.0))
    assert play.state.server(busy.id).state is ServerState.DRAINING
    if constraints.cpu_when_full:
        play.post(ev.Acquire(52, a_model("b"), 0.7, 300.0, eight_layers()))
        assert where(play.request("c", at=1.0, constraints=constraints)) == [(CPU,)]
    else:
        assert stopped(play.request("c", at=1.0, constraints=constraints)) == [idle.id]


def test_a_draining_server_is_waited_for_if_there_is_no_other_place():
    play = play_on(ONE)
    play.loaded("a")
    play.post(ev.Acquire(50, a_model("a"), 0.5, 300.0, eight_layers()), ev.Unload(51, a_model("a"), 0.6, 300.0))
    assert play.request("c", at=1.0) == []
    assert "waiting for draining servers to finish: " in play.decided[-1].decision.reason


def test_a_server_drained_for_a_canceled_request_is_ready_although_another_load_waits():
    """Another load still waits, for another GPU."""
    play = play_on(TWO, IMPATIENT)
    here, there = PlacementConstraints(gpus=("GPU-a",)), PlacementConstraints(gpus=("GPU-b",))
    for name, constraints in (("a", here), ("b", there)):
        play.request(name, constraints=constraints)
        play.post(ev.Ready(play.state.servers[-1].id, 9001, at=0.0))
    play.request("x", at=1.0, constraints=here)
    play.request("y", at=2.0, constraints=there)
    play.post(play.polled(at=5.5))
    assert [s.state for s in play.state.servers] == [ServerState.DRAINING, ServerState.READY]
    play.post(ev.Cancel(3, at=5.7), play.polled(at=7.0))
    assert [s.state for s in play.state.servers] == [ServerState.READY, ServerState.DRAINING]


def test_memory_held_by_another_process_is_reported_with_the_numbers():
    play = play_on(replace(ONE, other_gib={"GPU-a": 4}))
    (refuse,) = play.request("a")
    assert isinstance(refuse, Refuse) and refuse.refusal.reason is Reason.INSUFFICIENT_MEMORY
    assert refuse.refusal.free_bytes == {"GPU-a": int(1.5 * GIB)}
    assert 4 * GIB < refuse.refusal.needed_bytes < 5 * GIB


def test_a_missing_gpu_is_the_reason_if_it_would_have_been_used():
    play = play_on(ONE)
    constraints = PlacementConstraints(gpus=("GPU-z",))
    assert refusals(play.request("a", constraints=constraints)) == {1: Reason.DOES_NOT_FIT}
    play.answers_polls = False
    play.request("a", at=1.0, constraints=constraints)
    missing = (MissingGpu("GPU-z", 1, "card", "lost"),)
    away = replace(play.polled(at=1.1).gpus, missing=missing)
    assert refusals(play.post(ev.GpusPolled(away, at=1.1))) == {2: Reason.NO_GPU}


@pytest.mark.parametrize("name, reason", [("GPU-z", Reason.NO_GPU), ("GPU-a", Reason.DOES_NOT_FIT)])
def test_a_gpu_that_was_never_read_may_be_the_one_that_a_model_names(name: str, reason: Reason):
    play = play_on(ONE)
    away = replace(play.polled(at=1.0).gpus, missing=(MissingGpu("", 1, "unknown", "lost"),))
    huge = a_placement_request(200 * GIB, PlacementConstraints(gpus=(name,)))
    play.answers_polls = False
    effects = play.post(ev.GpusPolled(away, 1.0), ev.Acquire(1, a_model("a"), 1.0, 300.0, huge), ev.Tick(1.1))
    assert refusals(effects) == {1: reason}


def test_a_model_that_never_fits_is_rejected_with_what_an_empty_gpu_offers():
    """Not with the size of the GPU: 6 GiB would be enough, but max_vram is 4. Nor with what is free at the moment."""
    play = play_on(replace(ONE, other_gib={"GPU-a": 3}), SchedulingLimits(gpu_limits=GpuLimits(max_vram_bytes=4 * GIB)))
    (refuse,) = play.request("a")
    assert isinstance(refuse, Refuse) and refuse.refusal.reason is Reason.DOES_NOT_FIT
    assert refuse.refusal.free_bytes == {"GPU-a": 4 * GIB}
    assert "usable at most: GPU 0 (card) 4,096 MiB" in refuse.refusal.detail


@pytest.mark.parametrize(
    "layers, constraints", [(0, PlacementConstraints()), (999, PlacementConstraints(gpus=("GPU-a",)))]
)
def test_a_missing_gpu_is_no_reason_for_a_model_that_would_not_use_it(layers: int, constraints: PlacementConstraints):
    play = play_on(ONE)
    missing = (MissingGpu("GPU-z", 1, "other", "lost"),)
    away = replace(play.polled(at=1.0).gpus, missing=missing)
    huge = a_placement_request(200 * GIB, constraints)
    model = replace(huge, options=ModelOptions(ctx_size=4096, n_gpu_layers=layers))
    play.answers_polls = False
    effects = play.post(ev.GpusPolled(away, 1.0), ev.Acquire(1, a_model("a"), 1.0, 300.0, model), ev.Tick(1.1))
    assert refusals(effects) == {1: Reason.DOES_NOT_FIT}


def test_a_learned_gpu_margin_does_not_depend_on_ram():
    play = play_on(ONE)
    (spawn,) = play.request("a")
    booked = {"GPU-a": GIB, CPU: 60 * GIB}
    servers = (replace(spawn.server, booked=booked),)
    play.state = replace(play.state, servers=servers)
    play.post(ev.Exited(1, "cudaMalloc failed", at=2.0, ran_out_of_memory=True))
    assert play.state.learned_margins["a"].device_bytes == 256 * 1024**2


def test_a_start_that_runs_out_of_memory_is_placed_once_more_with_a_margin():
    """Another process grew on the GPU that was chosen."""
    play = play_on(TWO)
    (first,) = where(play.request("a"))
    play.hardware.other_gib = {first[0]: 5}
    effects = play.post(ev.Exited(1, "cudaMalloc failed", at=2.0, ran_out_of_memory=True))
    (second,) = where(effects)
    assert (refusals(effects), second != first) == ({}, True)
    one, two = 4 * GIB, play.state.server(2).booked[second[0]]
    assert two > one and play.state.server(2).is_replanned
    assert refusals(play.post(ev.Exited(2, "cudaMalloc failed", at=4.0, ran_out_of_memory=True))) == {
        1: Reason.LOAD_FAILED
    }


def test_a_start_that_runs_out_of_memory_for_nobody_is_a_failed_load():
    """Its client disconnected: it is not placed again, and the model list says why."""
    play = play_on(TWO)
    play.request("a")
    play.post(ev.Cancel(1, at=1.0))
    assert where(play.post(ev.Exited(1, "cudaMalloc failed", at=2.0, ran_out_of_memory=True))) == []
    assert play.state.failures["a"].detail == "cudaMalloc failed"


def test_a_learned_margin_is_kept_until_the_model_was_measured():
    play = play_on(ONE)
    plain = play.request("a")[0].server.booked["GPU-a"]
    play.post(ev.Exited(1, "cudaMalloc failed", at=2.0, ran_out_of_memory=True))
    warned = play.state.server(2).booked["GPU-a"]
    assert 256 * 1024**2 <= warned - plain < GIB
    play.post(ev.Ready(2, 9002, at=3.0), ev.Release(1, at=3.0))
    play.post(ev.Measured(2, {"GPU-a": plain, CPU: GIB}, at=3.5))
    assert play.state.learned_margins == {}


def test_a_server_that_runs_out_of_memory_while_it_answers_is_booked_with_more_from_then_on():
    """Its reports and measurements are from before its first request, so they do not replace the margin."""
    play = play_on(Hardware({"GPU-a": 12}))
    plain = play.request("a")[0].server.booked["GPU-a"]
    play.post(ev.Ready(1, 9001, at=1.0), ev.Measured(1, {"GPU-a": plain, CPU: GIB}, at=1.5))
    neighbour = play.request("b", at=1.6)[0].server.id
    play.post(ev.Exited(1, "CUDA error: out of memory", at=2.0, ran_out_of_memory=True), ev.Release(1, at=2.0))
    assert "ran out of GPU memory" in play.state.endings[1].detail
    assert "256 MiB more on each GPU" in play.state.endings[1].detail
    assert [server.id for server in play.state.servers] == [neighbour]
    (spawn,) = [each for each in play.request("a", at=8.0) if isinstance(each, Spawn)]
    assert spawn.server.booked["GPU-a"] == plain + MARGIN
    play.post(ev.Projected(3, {"GPU-a": plain - 7, CPU: GIB}, at=8.5))
    assert play.state.server(3).booked == {"GPU-a": plain - 7 + MARGIN, CPU: GIB}
    play.post(ev.Ready(3, 9003, at=9.0), ev.Measured(3, {"GPU-a": plain - 8, CPU: GIB}, at=9.5))
    assert play.state.server(3).booked == {"GPU-a": plain - 8 + MARGIN, CPU: GIB}
    assert play.state.server(3).reported == {"GPU-a": plain - 8, CPU: GIB}


def test_the_margin_of_a_model_that_runs_out_again_and_again_is_bounded():
    """Something else is wrong then, and it must still be loaded."""
    play = play_on(Hardware({"GPU-a": 12}))
    for number in range(1, 9):
        at = 100.0 * number
        play.request("a", at=at)
        play.post(ev.Ready(number, 9000, at=at + 1), ev.Exited(number, "", at=at + 2, ran_out_of_memory=True))
        play.post(ev.Release(number, at=at + 2))
    assert play.state.runtime_margins["a"].device_bytes < 5 * MARGIN


def test_any_other_failure_of_a_start_is_not_retried():
    play = play_on(ONE)
    play.request("a")
    assert refusals(play.post(ev.Exited(1, "bad file", at=2.0))) == {1: Reason.LOAD_FAILED}


def test_a_start_that_reports_more_than_its_gpu_has_moves_to_another_gpu():
    play = play_on(Hardware({"GPU-a": 6, "GPU-b": 16}))
    (first,) = where(play.request("a"))
    assert first == ("GPU-a",), "the fullest GPU that holds it"
    assert stopped(play.post(ev.Projected(1, {"GPU-a": 9 * GIB, CPU: GIB}, at=0.2))) == [1]
    assert where(play.post(ev.Exited(1, "", at=0.4))) == [("GPU-b",)]
    assert play.state.server(2).booked["GPU-b"] == pytest.approx(9 * GIB)


def test_nothing_is_decided_twice_on_the_same_facts():
    play = play_on(ONE)
    play.request("busy")
    play.post(ev.Ready(1, 9001, at=0.0))
    play.request("busy", at=0.5)
    play.request("new", at=1.0)
    decided = len(play.decided)
    for number in range(5):
        play.post(ev.Tick(at=1.1 + number / 10))
    assert len(play.decided) == decided
    play.post(play.polled(at=1.9))
    assert len(play.decided) == decided, "a reading that shows the same changes nothing"
    play.hardware.other_gib = {"GPU-a": 0.5}
    play.post(play.polled(at=2.9))
    assert len(play.decided) == decided + 1


def test_requests_for_loaded_models_need_no_reading():
    play = play_on(ONE)
    play.loaded("a")
    polls = play.polls
    assert grants(play.request("a", at=50.0)) == {2: 1}
    assert play.polls == polls


def ticks_that_are_due_at_once(play: GpuPlay, now: float) -> int:
    """How many ticks in a row leave another one due at once; ten are a busy loop."""
    for count in range(10):
        due = due_at(play.state)
        if due is None or due > now:
            return count
        play.post(ev.Tick(at=now))
    return 10


def on_the_cpu_beside_gpus(gib: float) -> PlacementRequest:
    return replace(a_placement_request(int(gib * GIB)), options=ModelOptions(ctx_size=4096, n_gpu_layers=0))


def test_a_missing_first_reading_causes_no_busy_loop_while_a_load_waits_for_ram():
    play = GpuPlay(Hardware({}, state=GpuState.UNREAD), SchedulingLimits(cpu_fallback=CpuFallback.WHEN_FULL), False)
    play.post(play.polled(at=0.0))
    play.post(ev.Acquire(1, a_model("a"), 6.0, 300.0, on_the_cpu_beside_gpus(40)), ev.Ready(1, 9001, at=7.0))
    play.post(ev.Acquire(2, a_model("b"), 8.0, 300.0, on_the_cpu_beside_gpus(40)))
    assert outcomes(play) == [Outcome.PLACE, Outcome.WAIT]
    assert ticks_that_are_due_at_once(play, 8.0) < 3


@pytest.mark.parametrize("is_polled", [True, False])
def test_memory_whose_release_is_never_seen_causes_no_busy_loop(is_polled: bool):
    play = play_on(ONE)
    gone = play.loaded("a")
    play.post(ev.Acquire(7, a_model("b"), 1.0, 300.0, on_the_cpu_beside_gpus(40)), ev.Ready(2, 9002, at=1.5))
    play.answers_polls = False
    last = play.polled(at=1.6)
    play.post(last, ev.Exited(gone.id, "gone", at=5.0))
    if not is_polled:
        play.post(replace(last, gpus=replace(last.gpus, poll_seconds=None)))  # no polls while the engine is probed
    play.post(ev.Acquire(8, a_model("c"), 7.0, 300.0, on_the_cpu_beside_gpus(40)))
    assert ticks_that_are_due_at_once(play, 7.0) < 3 and ticks_that_are_due_at_once(play, 7.1) < 3
    assert outcomes(play)[-1] is Outcome.WAIT


def test_one_decision_rejects_all_waiters_of_a_model():
    play = play_on(replace(ONE, other_gib={"GPU-a": 4}), answers_polls=False)
    for ticket in range(1, 6):
        play.post(ev.Acquire(ticket, a_model("a"), 0.0, 300.0, eight_layers()))
    other = eight_layers(constraints=PlacementConstraints(cpu_when_full=True))  # its settings have changed meanwhile
    play.post(ev.Acquire(6, a_model("a"), 0.0, 300.0, other))
    effects = play.post(play.polled(at=0.01))
    assert len(refusals(effects)) == 6 and outcomes(play) == [Outcome.REFUSE]
    assert play.state.servers == (), "no request is left to load it for"


def test_loads_wait_for_what_another_engine_can_use_and_loaded_models_do_not():
    play = GpuPlay(Hardware({"GPU-a": 24}), answers_polls=False)
    play.post(play.polled(at=0.0))
    play.loaded("a", at=0.0)
    reading_from_before = play.polled(at=1.0)
    play.post(ev.EngineReplaced(at=1.5), reading_from_before)
    assert spawned(play.request("b", at=1.6)) == []
    assert len(grants(play.request("a", at=1.7))) == 1
    play.post(ev.Tick(at=2.5))
    assert play.state.has_waiting_load, "also after the time in which a reading is late"
    assert spawned(play.post(play.polled(at=2.6))) == ["b"]


@pytest.mark.parametrize("number", [None, 0])
def test_a_server_that_uses_vulkan_need_not_be_shown_among_the_processes_of_cuda(number: int | None):
    play = GpuPlay(Hardware({"GPU-a": 24}))
    server = play.loaded("a")
    numbers = () if number is None else (number,)
    shown = replace(server, placement=replace(server.placement, vulkan_numbers=numbers), ready_at=0.0, pid=1, port=1)
    play.state = replace(play.state, servers=(shown.with_state(ServerState.READY),), are_pids_shown=True)
    (gpu,) = play.hardware.snapshot((), at=60.0).gpus
    polled = replace(play.hardware.snapshot((), at=60.0), gpus=(replace(gpu, processes={}),))
    play.post(ev.GpusPolled(polled, at=60.0))
    assert [each.state for each in play.state.servers] == [
        ServerState.STOPPING if number is None else ServerState.READY
    ]
