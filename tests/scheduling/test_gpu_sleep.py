"""Sleeping GPUs: when NVML may be closed, and how a load wakes them, each rule as a list of events."""

from __future__ import annotations

from math import inf

import pytest

from app.entities.gpu import GpuState, MissingGpu
from app.entities.launch import ModelOptions
from app.entities.placement import CPU, PlacementConstraints
from app.entities.refusal import Reason
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import ReadGpus, ReadMemory
from app.use_cases.scheduling.gpu_sleep import may_sleep
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.readings import GPU_READING_TIMEOUT_SECONDS, WAKE_TIMEOUT_SECONDS
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import a_model, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from tests.scheduling.test_schedule import refusals
from tests.scheduling.test_schedule_gpus import ONE, TWO, where

IDLE = 60.0
CPU_ONLY = replace(eight_layers(), options=ModelOptions(ctx_size=4096, n_gpu_layers=0))


def play_on(hardware: Hardware = ONE, idle_seconds: float | None = IDLE) -> GpuPlay:
    """GPUs that were read at 0. Later readings are posted by the tests."""
    play = GpuPlay(replace(hardware), SchedulingLimits(gpu_idle_close_seconds=idle_seconds), answers_polls=False)
    play.post(play.polled(at=0.0))
    return play


def asleep(play: GpuPlay, at: float) -> None:
    play.post(ev.GpusPolled(play.hardware.snapshot((), at).asleep(), at))


def acquire_cpu_only(play: GpuPlay, at: float) -> list[object]:
    play._ticket += 1
    return list(play.post(ev.Acquire(play._ticket, a_model("c"), at, at + 300, CPU_ONLY)))


def loaded(play: GpuPlay, at: float) -> int:
    """The model "a" on a GPU, idle."""
    play.post(play.polled(at - 0.5))
    assert play.request("a", at) == [ReadGpus()]
    play.post(play.polled(at))
    (server,) = play.state.servers
    play.post(ev.Spawned(server.id, 77, at), ev.Ready(server.id, 9001, at), ev.Release(play._ticket, at))
    return server.id


# --- when they may sleep ------------------------------------------------------------------------------------


def test_gpus_that_nothing_has_needed_since_the_start_may_sleep():
    play = play_on()
    play.post(play.polled(at=IDLE - 1))
    assert not may_sleep(play.state, IDLE - 0.001)
    assert may_sleep(play.state, IDLE)


def test_gpus_never_sleep_by_default():
    assert not may_sleep(play_on(idle_seconds=None).state, 1e9)


def test_a_loaded_model_keeps_them_awake_and_the_time_counts_from_its_end():
    play = play_on()
    server = loaded(play, at=10.0)
    assert not may_sleep(play.state, 500.0)
    play.post(ev.Exited(server, "", 600.0))
    assert not may_sleep(play.state, 600.0 + IDLE - 0.001)
    assert may_sleep(play.state, 600.0 + IDLE)


def test_a_request_that_waits_or_was_refused_counts_as_use():
    play = play_on(replace(ONE, other_gib={"GPU-a": 5}))
    play.post(play.polled(at=99.5))
    assert play.request("a", at=100.0) == [ReadGpus()]
    assert not may_sleep(play.state, 1000.0)
    assert refusals(play.post(play.polled(at=100.0))) == {1: Reason.INSUFFICIENT_MEMORY}
    assert not may_sleep(play.state, 100.0 + IDLE - 0.001)
    assert may_sleep(play.state, 100.0 + IDLE)


def test_a_model_that_uses_no_gpu_neither_keeps_them_awake_nor_counts():
    play = play_on()
    acquire_cpu_only(play, at=50.0)
    play.post(play.polled(at=50.0))
    assert [server.placement.uuids for server in play.state.servers] == [(CPU,)]
    play.state = replace(play.state, gpus_needed_at=0.0)  # awake, it was decided on a reading
    assert may_sleep(play.state, IDLE)


def test_a_model_on_the_cpu_for_want_of_a_gpu_keeps_them_awake():
    play = play_on(replace(ONE, engine_problem="no CUDA"))
    loaded(play, at=1.0)
    assert [server.placement.uuids for server in play.state.servers] == [(CPU,)]
    assert not may_sleep(play.state, 1000.0)


@pytest.mark.parametrize("state", [GpuState.LOST, GpuState.FAILED, GpuState.HUNG, GpuState.NO_GPU])
def test_gpus_that_cannot_be_read_are_polled_on(state: GpuState):
    assert not may_sleep(play_on(replace(ONE, state=state)).state, 1e9)


def test_while_a_gpu_is_missing_the_others_stay_awake():
    """Its return would not be noticed."""
    play = play_on()
    lost = MissingGpu("GPU-b", 1, "card", "lost")
    play.post(ev.GpusPolled(replace(play.state.gpus, missing=(lost,)), 1.0))
    assert not may_sleep(play.state, 1e9)


# --- how a load wakes them ----------------------------------------------------------------------------------


def test_a_load_waits_for_a_reading_however_long_the_last_one_says_there_is_room():
    play = play_on()
    asleep(play, at=100.0)
    assert play.request("a", at=200.0) == [ReadGpus()]
    assert play.post(ev.Tick(at=200.0 + GPU_READING_TIMEOUT_SECONDS)) == []
    assert play.post(ev.Tick(at=205.0)) == []
    assert where(play.post(play.polled(at=206.0), *fresh_memory(play, 206.0))) == [("GPU-a",)]


def fresh_memory(play: GpuPlay, at: float) -> list[ev.Event]:
    """RAM, as it is read anew for a load that has waited for longer than a second."""
    answer = play.answer(ReadMemory(), at)
    return [answer] if answer else []


def test_the_load_is_placed_by_what_is_there_on_waking():
    play = play_on(TWO)
    asleep(play, at=100.0)
    play.hardware.total_gib = {"GPU-b": 6}
    play.hardware.other_gib = {"GPU-a": 6}
    play.request("a", at=200.0)
    assert where(play.post(play.polled(at=200.5))) == [("GPU-b",)]


def test_gpus_that_were_lost_in_their_sleep_are_refused_like_others():
    play = play_on()
    asleep(play, at=100.0)
    assert play.state.gpus.problems == ()
    play.request("a", at=200.0)
    play.hardware.state, play.hardware.expected = GpuState.LOST, "one was here"
    assert refusals(play.post(play.polled(at=200.5))) == {1: Reason.NO_GPU}
    assert not may_sleep(play.state, 1e9)


def test_gpus_that_do_not_wake_are_waited_for_for_a_while_then_refused_as_lost():
    play = play_on()
    asleep(play, at=100.0)
    play.request("a", at=200.0)
    timeout_at = 200.0 + WAKE_TIMEOUT_SECONDS
    play.post(ev.Tick(at=200.0 + GPU_READING_TIMEOUT_SECONDS))
    assert due_at(play.state) == timeout_at
    assert refusals(play.post(ev.Tick(at=timeout_at), *fresh_memory(play, timeout_at))) == {1: Reason.NO_GPU}
    assert play.state.gpus.as_of(timeout_at).state is GpuState.HUNG
    assert play.state.gpus.problems == ("NVML has not responded within 10 s of being opened again",)
    assert (due_at(play.state) or inf) > timeout_at, "no Tick without end"
    assert refusals(play.request("b", at=300.0)) == {2: Reason.NO_GPU}, "the next does not wait again"
    play.post(play.polled(at=301.0))
    assert play.state.gpus.state is GpuState.OK
    assert where(play.request("c", at=300.5)) == [("GPU-a",)]


def test_a_load_that_asks_while_nvml_is_being_closed_waits_for_the_next_reading():
    play = play_on()
    play.post(play.polled(at=199.5))
    assert play.request("a", at=200.0) == [ReadGpus()]
    asleep(play, at=199.5)
    assert play.state.gpus_requested_at == 200.0
    assert play.post(ev.Tick(at=200.0 + GPU_READING_TIMEOUT_SECONDS)) == []
    assert where(play.post(play.polled(at=200.5))) == [("GPU-a",)]


def test_a_model_that_uses_no_gpu_is_loaded_without_waking_them():
    play = play_on()
    asleep(play, at=100.0)
    assert where(acquire_cpu_only(play, at=200.0)) == [(CPU,)]
    assert play.state.gpus.state is GpuState.ASLEEP
    assert play.state.gpus_requested_at is None


def test_such_a_model_gets_the_same_context_whether_they_sleep_or_not():
    contexts = []
    for is_asleep in (False, True):
        play = play_on()
        play.post(play.polled(at=199.5))
        if is_asleep:
            asleep(play, at=199.5)
        request = replace(CPU_ONLY, constraints=PlacementConstraints(has_auto_context=True))
        play.post(ev.Acquire(1, a_model("c"), 200.0, 500.0, request), play.polled(at=200.0))
        contexts += [server.placement.ctx_size for server in play.state.servers]
    assert contexts[0] == contexts[1] > 4096


def test_all_models_that_wait_wake_them_once():
    play = play_on(TWO)
    asleep(play, at=100.0)
    assert play.request("a", at=200.0) == [ReadGpus()]
    assert play.request("b", at=200.1) == []
    assert sorted(where(play.post(play.polled(at=200.5)))) == [("GPU-a",), ("GPU-b",)]
