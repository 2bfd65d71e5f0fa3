"""Models that are on the CPU because no GPU could be used, and when they leave it."""

from __future__ import annotations

import pytest

from app.entities.gpu import GpuState
from app.entities.placement import CPU, CpuFallback, PlacementConstraints
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import StopReason
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import a_model, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from tests.scheduling.test_card_failures import NO_DEVICE, failed, ready
from tests.scheduling.test_schedule import stopped
from tests.scheduling.test_schedule_gpus import ONE, TWO, play_on, where

ANYWHERE = PlacementConstraints(cpu_when_full=True)
WHEN_FULL = SchedulingLimits(cpu_fallback=CpuFallback.WHEN_FULL)
LOST = replace(ONE, state=GpuState.LOST, expected="one was here")


def stranded(hardware: Hardware = LOST, limits: SchedulingLimits = WHEN_FULL) -> GpuPlay:
    """A play with an idle model on the CPU, because this hardware has no usable GPU."""
    play = play_on(hardware, limits)
    assert play.loaded("m", constraints=ANYWHERE).placement.is_on_cpu
    return play


@pytest.mark.parametrize(
    "hardware", [LOST, Hardware({}, state=GpuState.NO_DRIVER), replace(ONE, engine_problem="no CUDA")]
)
def test_an_idle_model_leaves_the_cpu_when_gpus_can_be_used_again(hardware: Hardware):
    """The service was started before the driver, and the model stayed on the CPU after the driver was there."""
    play = stranded(hardware)
    assert play.state.servers[0].gpu_problem
    play.hardware = replace(ONE)
    effects = play.post(play.polled(at=10.0))
    assert stopped(effects) == [1] and effects[0].why is StopReason.GPU_USABLE  # type: ignore[union-attr]
    play.post(ev.Exited(1, "", at=11.0))
    assert where(play.request("m", at=12.0, constraints=ANYWHERE)) == [("GPU-a",)]


def test_a_busy_model_leaves_the_cpu_after_its_last_request():
    play = stranded()
    play.request("m", at=5.0, constraints=ANYWHERE)
    play.hardware = replace(ONE)
    assert stopped(play.post(play.polled(at=10.0))) == []
    play.post(ev.Release(2, at=20.0))
    assert stopped(play.post(play.polled(at=20.5))) == [1]


def test_a_model_stays_on_the_cpu_while_no_gpu_has_room_for_it():
    play = stranded()
    play.hardware = replace(ONE, other_gib={"GPU-a": 3})
    assert stopped(play.post(play.polled(at=10.0))) == []
    play.hardware.other_gib = {}
    assert stopped(play.post(play.polled(at=11.0))) == [1]


def test_nothing_is_evicted_for_a_model_that_leaves_the_cpu():
    play = stranded()
    play.request("m", at=5.0, constraints=ANYWHERE)  # keeps it busy
    play.hardware = replace(ONE)
    assert play.loaded("other", at=6.0).placement.uuids == ("GPU-a",)
    play.post(ev.Release(2, at=20.0))
    assert stopped(play.post(play.polled(at=20.5))) == []


def test_a_model_that_is_on_the_cpu_because_the_gpus_were_full_stays():
    play = play_on(replace(ONE, other_gib={"GPU-a": 3}), WHEN_FULL)
    server = play.loaded("m", constraints=ANYWHERE)
    assert (server.placement.uuids, server.gpu_problem) == ((CPU,), "")
    play.hardware.other_gib = {}
    assert stopped(play.post(play.polled(at=10.0))) == []


def test_a_model_that_may_use_only_a_lost_card_returns_to_it():
    on_b = replace(ANYWHERE, gpus=("GPU-b",))
    play = play_on(ONE, WHEN_FULL)
    assert play.loaded("m", constraints=on_b).placement.is_on_cpu
    assert stopped(play.post(play.polled(at=5.0))) == [], "the other card is not for it"
    play.hardware = replace(TWO)
    assert stopped(play.post(play.polled(at=10.0))) == [1]


def test_a_model_without_gpu_layers_is_not_moved():
    play = play_on(LOST)
    on_cpu = replace(eight_layers(), options=replace(eight_layers().options, n_gpu_layers=0))
    play.post(ev.Acquire(1, a_model(), 0.0, 300.0, on_cpu), ev.Ready(1, 9001, 1.0), ev.Release(1, 2.0))
    play.hardware = replace(ONE)
    assert stopped(play.post(play.polled(at=10.0))) == []


def test_a_model_does_not_wait_for_its_own_place_under_max_loaded():
    play = stranded(limits=replace(WHEN_FULL, max_loaded=1))
    play.hardware = replace(ONE)
    assert stopped(play.post(play.polled(at=10.0))) == [1]


def test_a_model_does_not_return_at_once_to_a_card_that_its_engine_did_not_use():
    """It would be loaded on the CPU again, each time that the pause of the card ends."""
    play = play_on(ONE, WHEN_FULL)
    play.request("m", constraints=ANYWHERE)
    assert where(failed(play, 1.0, NO_DEVICE, is_unused=True)) == [(CPU,)]
    ready(play, at=2.0)
    play.post(ev.Release(1, at=3.0))
    assert stopped(play.post(play.polled(at=7.0))) == [], "the pause of the card has ended"
    assert stopped(play.post(play.polled(at=67.0))) == [2]


def test_one_model_leaves_the_cpu_at_a_time():
    play = stranded()
    play.loaded("n", at=1.0, constraints=ANYWHERE)
    play.hardware = replace(ONE)
    assert stopped(play.post(play.polled(at=10.0))) == [1]
    assert stopped(play.post(play.polled(at=10.5))) == [], "the next one, once it is known what the first leaves"
    assert stopped(play.post(ev.Exited(1, "", at=11.0), play.polled(at=11.5))) == [2]
