"""What a llama-server reports that it needs, against what was booked: each rule as a list of events."""

from __future__ import annotations

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import CPU
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Refuse
from tests.helpers.builders import GIB, Play, a_model, booked, memory, replace
from tests.scheduling.test_schedule import grants, refusals, spawned, stopped


def ram_of(request: PlacementRequest) -> int:
    return request.estimate_with_margin(replace(request.options, devices=0)).host.booked_bytes


def report(server: int, gib: float, at: float = 1.0) -> ev.Projected:
    return ev.Projected(server, {CPU: int(gib * GIB)}, at)


def test_reporting_less_than_was_booked_frees_the_difference():
    play = Play(total_gib=16)
    play.ask(a_model("a", gib=10))
    assert spawned(play.ask(a_model("b", gib=10), at=1.0)) == []
    # 10 GiB + 15 % are 11.5 GiB; if the first needs only 4, 12 GiB are left for the other
    assert spawned(play.post(report(1, gib=4))) == ["b"]
    assert play.state.server(1).expected_bytes == 4 * GIB


def test_reporting_more_than_was_booked_is_booked_if_available():
    play = Play(total_gib=16)
    play.ask(a_model(gib=2))
    assert play.post(report(1, gib=15)) == []
    assert play.state.server(1).expected_bytes == 15 * GIB
    assert grants(play.post(ev.Ready(1, 9001, at=2.0))) == {1: 1}


def test_a_report_for_a_gpu_whose_memory_is_ram_is_held_against_both_together():
    """16 GiB, of which 2 are left to the system."""
    spark = Gpu("GPU-s", 0, "NVIDIA GB10", total_bytes=16 * GIB, free_bytes=16 * GIB, is_unified=True, processes={})
    play = Play(total_gib=16)
    play.ask(a_model(gib=2))
    server = play.state.servers[0]
    estimate = Estimate((DeviceMemory(GIB),), DeviceMemory(GIB), Confidence.EXACT)
    placement = replace(server.placement, uuids=("GPU-s",), unified=("GPU-s",), estimate=estimate)
    server = replace(server, placement=placement, booked=placement.booked_bytes)
    play.state = replace(play.state, gpus=GpuSnapshot(GpuState.OK, 0.0, (spark,)), servers=(server,))
    assert stopped(play.post(ev.Projected(1, {"GPU-s": 8 * GIB, CPU: 6 * GIB}, 1.0))) == []
    assert stopped(play.post(ev.Projected(1, {"GPU-s": 9 * GIB, CPU: 6 * GIB}, 1.0))) == [1]


def test_memory_a_server_holds_already_counts_for_what_it_needs():
    play = Play(answers_readings=False)
    play.ask(a_model("a", gib=2))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    play.ask(a_model("b", gib=1), at=1.0)
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=14, held={1: 2}), at=1.0))
    # b claims 1.15 of the 14 GiB that are available: a may grow by 12.85 GiB to 14.85
    assert stopped(play.post(report(1, gib=14.8))) == []
    assert stopped(play.post(report(1, gib=14.9))) == [1]


def test_a_start_that_needs_more_than_is_available_is_aborted_and_placed_again():
    """Before it loads its weights; its waiters do not notice."""
    play = Play(total_gib=16)
    idle = play.up(a_model("idle", gib=6), at=0.0)
    play.ask(a_model("new", gib=4), at=1.0)
    effects = play.post(report(2, gib=12, at=1.2))
    assert (stopped(effects), refusals(effects)) == ([2], {})
    assert stopped(play.post(ev.Exited(2, "", at=1.3))) == [idle]
    assert spawned(play.post(ev.Exited(idle, "", at=1.5))) == ["new"]
    assert play.state.server(3).expected_bytes == 12 * GIB
    assert play.post(report(3, gib=12, at=1.7)) == [], "the same report does not abort it again"
    assert grants(play.post(ev.Ready(3, 9003, at=5.0))) == {2: 3}


def test_a_model_that_reports_more_than_ever_fits_is_rejected_with_the_reported_size():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    assert stopped(play.post(report(1, gib=20))) == [1]
    (refuse,) = play.post(ev.Exited(1, "", at=1.1))
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.reason is Reason.DOES_NOT_FIT
    assert (refuse.refusal.needed_bytes, refuse.refusal.free_bytes) == (20 * GIB, {CPU: 16 * GIB})
    assert play.state.servers == ()


def test_the_same_report_does_not_abort_a_second_start():
    play = Play(answers_readings=False)
    play.ask(a_model(gib=4))
    play.post(ev.MemoryRead(memory(at=0.0, available_gib=8), at=0.0), report(1, gib=9))
    play.post(ev.Exited(1, "", at=1.1), ev.MemoryRead(memory(at=1.2, available_gib=9.5), at=1.2))
    play.ask(a_model("other", gib=1), at=1.3)
    play.post(ev.MemoryRead(memory(at=1.3, available_gib=3), at=1.3))
    assert play.post(report(2, gib=9, at=1.4)) == []
    assert play.state.server(2).state is ServerState.STARTING


def test_a_second_start_that_needs_even_more_is_rejected():
    play = Play(total_gib=16)
    play.ask(a_model("odd", gib=4))
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=10), at=1.0), report(1, gib=12), ev.Exited(1, "", at=1.1))
    assert play.state.server(2).is_replanned
    effects = play.post(report(2, gib=17, at=1.4))
    assert (stopped(effects), refusals(effects)) == ([2], {1: Reason.DOES_NOT_FIT})
    assert "needs 17408 MiB of RAM, 12288 MiB were booked" in play.state.failures["odd"].detail
    assert play.post(ev.Exited(2, "", at=1.5)) == []


def test_a_request_during_an_aborted_start_uses_the_reported_size():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.post(report(1, gib=20), ev.Cancel(1, at=1.05))
    play.ask(a_model(gib=4), at=1.1)
    assert refusals(play.post(ev.Exited(1, "", at=1.2))) == {2: Reason.DOES_NOT_FIT}


def test_a_changed_file_does_not_use_the_report_of_the_old_one():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.ask(replace(a_model(gib=4), created=2), at=0.5)
    play.post(report(1, gib=20))
    assert [ram_of(w.placement_request) for w in play.state.waiting] == 2 * [booked(a_model(gib=4))], (
        "the earlier waiter gets the new file"
    )


def test_an_aborted_start_without_waiters_leaves_its_reason():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4), command=ev.Load)
    assert stopped(play.post(report(1, gib=20))) == [1]
    assert play.state.failures["a"].detail == (
        "a: its llama-server needs 20480 MiB of RAM, 4710 MiB were booked and 16384 MiB are available"
    )


def test_a_report_from_a_stopping_server_changes_nothing():
    play = Play(total_gib=16)
    play.ask(a_model(gib=4))
    play.ask(a_model(gib=4), command=ev.Unload)
    before = play.state
    assert play.post(report(1, gib=20)) == []
    assert play.state == before


def test_a_memory_report_counts_as_progress():
    play = Play()
    play.ask(a_model(gib=4))
    play.post(report(1, gib=4, at=7.0))
    assert play.state.server(1).progress_at == 7.0


def test_a_loaded_server_is_booked_as_measured():
    play = Play(total_gib=16)
    play.up(a_model(gib=4))
    for gib in (3, 5):
        assert play.post(ev.Measured(1, {CPU: gib * GIB}, at=1.0)) == []
        server = play.state.server(1)
        assert (server.expected_bytes, server.reported_bytes) == (gib * GIB, gib * GIB)


def test_a_measurement_that_frees_memory_starts_a_waiting_load():
    play = Play(answers_readings=False)
    play.up_without_readings(a_model("a", gib=10))
    play.ask(a_model("b", gib=8), at=1.0)
    play.ask(a_model("a", gib=10), at=1.0)
    # a is memory-mapped, so 15 of 16 GiB are available; booked are 11.5, then 5; b needs 8 GiB + 15 % = 9.2
    play.post(ev.MemoryRead(memory(at=1.0, available_gib=15), at=1.0))
    assert spawned(play.post(ev.Measured(1, {CPU: 5 * GIB}, at=1.1))) == ["b"]
