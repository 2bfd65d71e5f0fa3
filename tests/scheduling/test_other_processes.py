"""Memory of other processes: `ctx_size: auto` waits for it a while, then gives way to it, and only to it."""

from __future__ import annotations

import random

import pytest

from app.entities.placement import CPU, Outcome, PlacementConstraints
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Spawn, Stop, StopReason
from app.use_cases.scheduling.held_levels import GRANULARITY_BYTES, HeldLevels, standing_bytes, with_reading
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.other_processes import taken_bytes
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import GIB, Play, a_model, memory, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from tests.scheduling.test_replicas import a_replicated

AUTO = PlacementConstraints(has_auto_context=True, max_gpus=1)

# `eight_layers` needs 4.5 GiB with 16k, 5.0 with 32k and 5.9 with 64k; half a GiB of each GPU is reserved. A quarter of
# the longest wait is 75 s.


def play_on(hardware: Hardware, **limits: object) -> GpuPlay:
    return GpuPlay(hardware, SchedulingLimits(**limits))


def polled_until(play: GpuPlay, begin: int, end: int) -> list[Effect]:
    """Poll the GPUs every second, and let time pass."""
    effects = []
    for second in range(begin, end):
        effects += play.post(play.polled(float(second)), ev.Tick(at=float(second)))
    return effects


def contexts(effects: list[Effect]) -> list[int]:
    return [each.server.placement.ctx_size for each in effects if isinstance(each, Spawn)]


def test_a_load_waits_for_other_processes_and_then_has_a_shorter_context():
    play = play_on(Hardware({"GPU-a": 8}, other_gib={"GPU-a": 2.8}))
    assert contexts(play.request("a", constraints=AUTO)) == []
    assert play.decided[-1].decision.shorter_ctx_size == 16384
    assert contexts(polled_until(play, 1, 74)) == []
    (spawn,) = (each for each in polled_until(play, 74, 77) if isinstance(each, Spawn))
    assert (spawn.server.placement.ctx_size, spawn.server.placement.full_ctx_size) == (16384, 32768)
    reason = play.decided[-1].decision.reason
    assert reason.endswith("context 16,384 instead of 32,768: other processes hold 2,880 MiB of GPU 0 (card)")


class SharedRam(Play):
    """A machine without GPUs whose RAM others use, too."""

    other_gib = 0.0

    @property
    def available_gib(self) -> float:
        return super().available_gib - self.other_gib


def test_time_alone_ends_the_wait():
    """Nothing polls RAM: the load itself asks for new readings now and then."""
    play = SharedRam(total_gib=16)
    play.other_gib = 11.4
    model = replace(a_model("a"), constraints=AUTO)
    play.post(ev.Acquire(1, model, 0.0, 300.0, eight_layers(constraints=AUTO)))
    at, spawned = 0.0, []
    while not spawned:
        due = due_at(play.state)
        assert due is not None and at < due < 100
        at, spawned = due, contexts(play.post(ev.Tick(at=due)))
    assert (at, spawned) == (75.0, [16384])
    why = "context 16,384 instead of 65,536: other processes hold 11,680 MiB of RAM"
    assert play.decided[-1].decision.reason.endswith(why)


def test_it_has_its_context_as_soon_as_they_end():
    play = play_on(Hardware({"GPU-a": 8}, other_gib={"GPU-a": 2.8}))
    play.request("a", constraints=AUTO)
    polled_until(play, 1, 40)
    play.hardware.other_gib = {}
    assert contexts(polled_until(play, 40, 42)) == [32768]


def test_the_next_model_does_not_wait_for_what_was_there_long_before():
    play = play_on(Hardware({"GPU-a": 8}, other_gib={"GPU-a": 2.8}))
    polled_until(play, 0, 80)
    assert contexts(play.request("a", at=80.0, constraints=AUTO)) == [16384]


def test_what_comes_and_goes_shortens_nothing():
    """The other processes hold 2.8 GiB most of the time, but never for 75 s."""
    play = play_on(Hardware({"GPU-a": 8}))
    for second in range(200):
        play.hardware.other_gib = {} if second % 60 == 0 else {"GPU-a": 2.8}
        play.post(play.polled(float(second)))
    assert contexts(play.request("a", at=200.0, constraints=AUTO)) == []
    play.hardware.other_gib = {}
    assert contexts(polled_until(play, 201, 203)) == [32768]


def test_a_starving_request_takes_what_fits():
    """Where pids are hidden, what others hold is known within 256 MiB while a server of ours is there."""
    play = play_on(Hardware({"GPU-a": 8}, other_gib={"GPU-a": 2.6}, shows_pids=False))
    other = play.loaded("b")
    polled_until(play, 1, 100)
    assert play.request("a", at=100.0, constraints=AUTO) == []
    assert polled_until(play, 101, 220) == [] and play.decided[-1].decision.shorter_ctx_size == 16384
    assert polled_until(play, 220, 222) == [Stop(other.id, StopReason.EVICTED, "for a")]
    assert contexts(play.post(ev.Exited(other.id, "", at=223.0), play.polled(224.0))) == [16384]


def test_a_model_comes_back_with_the_context_it_had():
    """Although there is less room by then, which the other model gives up."""
    play = play_on(Hardware({"GPU-a": 9}), ttl_seconds=30)
    first = play.loaded("a", constraints=AUTO)
    polled_until(play, 1, 31)
    play.post(ev.Exited(first.id, "", at=31.0))
    other = play.loaded("b", at=40.0)
    polled_until(play, 41, 62)
    assert play.request("a", at=62.0, constraints=AUTO) == [Stop(other.id, StopReason.EVICTED, "for a")]
    again = play.post(ev.Exited(other.id, "", at=63.0))
    assert contexts(again) == [first.placement.ctx_size] == [32768]


@pytest.mark.parametrize("shows_pids", [True, False])
def test_our_own_servers_never_count_as_others(shows_pids: bool):
    """Loading, ready and ending, with pids hidden or not, even if a quarter of the longest wait is half a second."""
    play = play_on(Hardware({"GPU-a": 8}, shows_pids=shows_pids), ttl_seconds=100, max_wait_seconds=2)
    server = play.loaded("b")
    polled_until(play, 1, 100)
    assert taken_bytes(play.state, 99.0) == {}
    polled_until(play, 100, 102)
    play.hardware.late_gib = {"GPU-a": 4.0}
    play.post(ev.Exited(server.id, "", at=102.0))
    polled_until(play, 102, 104)
    assert taken_bytes(play.state, 103.0) == {}
    play.hardware.late_gib = {}
    assert contexts(play.request("a", at=105.0, constraints=AUTO)) == [32768]


def test_a_server_that_loads_for_minutes_is_not_another_process():
    """Where pids are hidden, nothing else tells whose the memory is."""
    play = play_on(Hardware({"GPU-a": 8}, shows_pids=False), stall_timeout_seconds=1000)
    play.request("b")
    play.hardware.other_gib = {"GPU-a": 4.0}  # what it has allocated so far
    polled_until(play, 1, 200)
    assert taken_bytes(play.state, 199.0) == {}


def test_a_gpu_that_is_missing_for_a_moment_does_not_shorten_the_context():
    play = play_on(Hardware({"GPU-a": 5, "GPU-b": 8}))
    polled_until(play, 0, 3)
    play.hardware.total_gib = {"GPU-a": 5}
    assert contexts(play.request("a", at=3.0, constraints=AUTO)) == []
    assert play.decided[-1].decision.reason.startswith("waiting for missing GPUs")
    polled_until(play, 4, 7)
    play.hardware.total_gib = {"GPU-a": 5, "GPU-b": 8}
    assert contexts(polled_until(play, 7, 9)) == [32768]


def test_a_gpu_that_stays_missing_does():
    play = play_on(Hardware({"GPU-a": 5, "GPU-b": 8}))
    polled_until(play, 0, 3)
    play.hardware.total_gib = {"GPU-a": 5}
    play.request("a", at=3.0, constraints=AUTO)
    assert contexts(polled_until(play, 4, 80)) == [16384]
    assert play.decided[-1].decision.reason.endswith("GPU 1 (card) is missing")


def test_if_there_is_no_memory_for_any_context_the_request_is_refused_at_once():
    play = play_on(Hardware({"GPU-a": 8}, other_gib={"GPU-a": 5}))
    play.request("a", constraints=AUTO)
    assert play.decided[-1].decision.outcome is Outcome.REFUSE and not play.state.waiting


def test_other_processes_in_ram_count_in_the_same_way():
    play = Play(total_gib=16)
    for at in (0.0, 40.0, 80.0):
        play.post(ev.MemoryRead(memory(at, available_gib=10), at))
    assert taken_bytes(play.state, 80.0) == {CPU: 6 * GIB}
    play.post(ev.MemoryRead(memory(81.0, available_gib=13), 81.0))
    assert taken_bytes(play.state, 81.0) == {CPU: 3 * GIB}


def test_a_server_that_loads_into_ram_is_not_another_process():
    play = Play(total_gib=16)
    play.ask(a_model("a", gib=6))
    for at in (1.0, 50.0, 100.0):
        play.post(ev.MemoryRead(memory(at, available_gib=10), at))
    assert taken_bytes(play.state, 100.0) == {}


def test_a_replica_says_as_the_first_server_does_that_its_context_is_shortened():
    play = play_on(Hardware({"GPU-a": 8, "GPU-b": 8}, other_gib={"GPU-a": 2.8, "GPU-b": 2.8}))
    polled_until(play, 0, 80)
    model = replace(a_replicated(low=2), constraints=AUTO)
    play.post(ev.Acquire(1, model, 80.0, 300.0, eight_layers(constraints=AUTO)))
    polled_until(play, 80, 82)
    play.post(ev.Spawned(1, 1001, 82.0), ev.Ready(1, 9001, 82.0))
    polled_until(play, 83, 85)
    contexts = [(s.placement.ctx_size, s.placement.full_ctx_size) for s in play.state.servers]
    assert contexts == [(16384, 32768)] * 2


# --- levels -----------------------------------------------------------------------------------------------------


@pytest.mark.seeds(3)
def test_the_levels_say_what_the_readings_said(seed: int):
    """Compared with all readings: the lowest since the last one before the period is what was held all the time."""
    chance, seconds = random.Random(seed), 10.0
    for _ in range(200):
        levels: HeldLevels = ()
        readings: list[tuple[float, int]] = []
        at = 0.0
        for _ in range(40):
            at += chance.choice((0.5, 1, 3, 20))
            readings.append((at, chance.randrange(5) * GRANULARITY_BYTES))
            levels = with_reading(levels, *readings[-1], seconds)
            begin = max((when for when, _ in readings if when + seconds <= at), default=None)
            lowest = 0 if begin is None else min(size for when, size in readings if when >= begin)
            assert standing_bytes(levels, at, seconds) == lowest
            assert len(levels) <= 5
