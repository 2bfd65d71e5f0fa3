"""The segments of a GPU's bar: what belongs to whom, and that they add up to the GPU's size whatever is unknown."""

from __future__ import annotations

from itertools import product

import pytest

from app.entities.gpu import Gpu
from app.entities.placement import CPU
from app.use_cases.reporting.gpu_segments import gpu_segments
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import GIB, MIB, replace
from tests.helpers.gpu_play import GpuPlay, Hardware

A = "GPU-a"


def segments(pool: PoolState, visible: set[int] | None = None) -> list[tuple[object, object, float]]:
    """(kind, model, GiB) of each."""
    (gpu,) = pool.gpus.gpus
    ids = {server.id for server in pool.servers} if visible is None else visible
    found = gpu_segments(gpu, pool, ids)
    assert sum(each["bytes"] for each in found) == gpu.total_bytes  # type: ignore[misc]
    return [(each["kind"], each["model"], round(each["bytes"] / GIB, 1)) for each in found]  # type: ignore[operator]


def a_play(shows_pids: bool = True, other_gib: float = 2.0) -> GpuPlay:
    """A loaded model of 4.7 GiB, one of the same size that loads, and others on a GPU of 24 GiB."""
    play = GpuPlay(Hardware({A: 24.0}, {A: other_gib}, shows_pids=shows_pids))
    play.loaded("a", 0.0)
    play.post(play.polled(1.0))
    play.request("b", 2.0)
    play.post(play.polled(3.0))
    return play


@pytest.mark.parametrize("shows_pids", [True, False])
def test_each_part_has_its_owner(shows_pids: bool):
    """Also where NVML does not say which process holds what: then a ready server holds what was booked."""
    play = a_play(shows_pids)
    size = round(play.state.servers[0].booked[A] / GIB, 1)
    assert segments(play.state) == [
        ("model", "a", size),
        ("claimed", "b", size),
        ("other", None, 2.0),
        ("reserve", None, 0.5),
        ("free", None, pytest.approx(24.0 - 2.5 - 2 * size, abs=0.11)),
    ]


def test_what_a_server_was_measured_to_hold_counts_more_than_its_booking():
    play = a_play(shows_pids=False)
    play.post(ev.Measured(1, {A: GIB, CPU: 0}, 4.0))
    assert segments(play.state)[0] == ("model", "a", 1.0)


def test_models_that_a_viewer_may_not_see_are_others():
    play = a_play()
    size = play.state.servers[0].booked[A] / GIB
    assert segments(play.state, visible=set())[0] == ("other", None, round(2.0 + 2 * size, 1))
    assert [name for _, name, _ in segments(play.state, visible={2})] == ["b", None, None, None]


def test_a_full_gpu_has_no_free_segment_and_less_than_its_reserve():
    play = GpuPlay(Hardware({A: 24.0}, {A: 23.75}))
    play.post(play.polled(0.0))
    assert segments(play.state) == [("other", None, 23.8), ("reserve", None, 0.2)]


def test_a_gpu_whose_size_is_unknown_has_no_segments():
    assert gpu_segments(Gpu(A, 0, "card"), PoolState(), set()) == []


def test_a_gpu_that_is_asleep_keeps_its_last_figures():
    play = GpuPlay(Hardware({A: 24.0}, {A: 2.0}))
    play.post(play.polled(0.0))
    asleep = replace(play.state, gpus=play.state.gpus.asleep())
    assert segments(asleep) == [("other", None, 2.0), ("reserve", None, 0.5), ("free", None, 21.5)]


def test_models_in_the_ram_of_a_unified_gpu_are_segments_of_it():
    play = a_play()
    gpu = replace(play.state.gpus.gpus[0], is_unified=True, processes={1001: GIB})
    pool = replace(play.state, gpus=replace(play.state.gpus, gpus=(gpu,)))
    held = replace(pool.memory, held_bytes={1: 512 * MIB})
    kinds = {kind: size for kind, _, size in segments(replace(pool, memory=held))}
    assert kinds["model"] == 1.5
    assert kinds["reserve"] == 2.4, "a tenth of RAM"


@pytest.mark.parametrize("free_gib", [0.0, 0.2, 1.0, 12.0, 24.0])
def test_the_segments_always_add_up(free_gib: float):
    """The figures of a GPU and of its processes are read one after the other: they may seem to hold more than it."""
    play, sizes = a_play(), (None, 0, GIB, 40 * GIB)
    (gpu,) = play.state.gpus.gpus
    for of_a, of_b, is_unified, reserve in product(sizes, sizes, (False, True), (0, 30 * GIB)):
        processes = {1001: of_a, 1002: of_b}
        changed = replace(gpu, free_bytes=int(free_gib * GIB), processes=processes, is_unified=is_unified)
        pool = replace(play.state, gpus=replace(play.state.gpus, gpus=(changed,)))
        limits = SchedulingLimits(gpu_limits=replace(pool.limits.gpu_limits, reserve_bytes=reserve))
        assert all(size >= 0 for _, _, size in segments(replace(pool, limits=limits)))
