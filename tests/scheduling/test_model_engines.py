"""Models with engines of their own: where they are placed, and that their failures are theirs alone."""

from __future__ import annotations

import pytest

from app.entities.gpu import EngineView
from app.entities.launch import OwnEngine
from app.entities.placement import CpuFallback
from app.entities.refusal import Reason
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.card_failures import cards_tried
from app.use_cases.scheduling.effects import Refuse
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import a_model, replace
from tests.helpers.gpu_play import Hardware
from tests.scheduling.test_card_failures import failed, problems, ready
from tests.scheduling.test_schedule_gpus import play_on, where

FORK = OwnEngine("/opt/fork/llama-server")
ALL = EngineView()
NO_CUDA = EngineView("the engine (b1) has no CUDA")
NOT_A, NOT_B = (EngineView(unusable={uuid: "it has no code for it"}) for uuid in ("GPU-a", "GPU-b"))


def two_cards(service: EngineView, own: EngineView) -> Hardware:
    """GPU-a is the smaller one, so that it is chosen first."""
    gib = {"GPU-a": 6.0, "GPU-b": 24.0}
    return Hardware(gib, engine_problem=service.problem, views={None: service, FORK: own})


@pytest.mark.parametrize(
    ("service", "own", "plain", "forked"),
    [
        (ALL, ALL, "GPU-a", "GPU-a"),
        (ALL, NOT_A, "GPU-a", "GPU-b"),
        (NOT_A, NOT_B, "GPU-b", "GPU-a"),
        (ALL, NO_CUDA, "GPU-a", "cpu"),
        (NO_CUDA, ALL, "cpu", "GPU-a"),
    ],
)
def test_a_model_is_placed_on_what_its_engine_can_use(service: EngineView, own: EngineView, plain: str, forked: str):
    for engine, uuid in ((None, plain), (FORK, forked)):
        play = play_on(two_cards(service, own))
        assert where(play.request("m", engine=engine)) == [(uuid,)]


def test_an_engine_without_cuda_is_no_fallback_where_that_is_forbidden():
    play = play_on(two_cards(ALL, NO_CUDA), replace(SchedulingLimits(), cpu_fallback=CpuFallback.NEVER))
    (refusal,) = (each.refusal for each in play.request("forked", engine=FORK) if isinstance(each, Refuse))
    assert (refusal.reason, NO_CUDA.problem in refusal.detail) == (Reason.NO_GPU, True)
    assert play.loaded("plain", 1.0).placement.uuids == ("GPU-a",)


def test_an_engine_whose_gpus_are_lost_does_not_compute_on_the_cpu():
    lost = EngineView(unusable=dict.fromkeys(("GPU-a", "GPU-b"), "the engine cannot use it: CUDA error 999"))
    play = play_on(two_cards(ALL, lost))
    (refusal,) = (each.refusal for each in play.request("forked", engine=FORK) if isinstance(each, Refuse))
    assert (refusal.reason, "CUDA error 999" in refusal.detail) == (Reason.NO_GPU, True)


def test_vulkan_numbers_are_those_of_the_models_engine():
    vulkan = EngineView(vulkan_numbers={"GPU-a": 1, "GPU-b": 0})
    play = play_on(two_cards(ALL, vulkan))
    assert play.loaded("plain").placement.device == "cuda:0"
    assert play.loaded("forked", 1.0, engine=FORK).placement.vulkan_numbers in ((0,), (1,))


@pytest.mark.parametrize("is_unused", [False, True])
def test_a_card_on_which_an_engine_of_a_models_own_fails_is_not_set_aside(is_unused: bool):
    """Others use it: that engine may have no code for it."""
    play = play_on(two_cards(ALL, ALL))
    play.request("forked", engine=FORK)
    assert where(failed(play, 1.0, is_unused=is_unused)) == [("GPU-b",)], "it is tried elsewhere"
    ready(play, 2.0)
    assert problems(play, 3.0) == []
    assert play.loaded("plain", 4.0).placement.uuids == ("GPU-a",)
    assert cards_tried(play.state.card_failures, "forked") == {"GPU-a"}, "others' success there says nothing about it"
    model = a_model("forked")
    kept = replace(model, launch=replace(model.launch, engine=FORK))
    play.post(ev.Reconfigured(play.state.limits, {"forked": kept}, {}, at=5.0))
    assert cards_tried(play.state.card_failures, "forked") == {"GPU-a"}
    play.post(ev.Reconfigured(play.state.limits, {"forked": model}, {}, at=6.0))
    assert not cards_tried(play.state.card_failures, "forked"), "the service's engine did not fail there"
