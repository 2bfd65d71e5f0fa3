"""GPUs on which loads fail: who is tried next, which card is set aside, and for how long."""

from __future__ import annotations

from functools import partial

import pytest

from app.entities.gpu import GpuSnapshot
from app.entities.placement import CPU, CpuFallback, PlacementConstraints
from app.entities.refusal import Reason
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.card_failures import (
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    CardFailure,
    with_failed_load,
    with_successful_load,
)
from app.use_cases.scheduling.effects import Effect, ProbeEngine, Spawn
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import replace
from tests.helpers.gpu_play import GpuPlay, Hardware
from tests.scheduling.test_schedule import refusals
from tests.scheduling.test_schedule_gpus import ONE, TWO, play_on, where

# GPU-a is the smaller one, so that it is chosen first.
UNEQUAL = Hardware({"GPU-a": 6, "GPU-b": 24})
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
NO_DEVICE = "failed to initialize CUDA: no CUDA-capable device is detected"
ON_A = PlacementConstraints(gpus=("GPU-a",))


def failed(
    play: GpuPlay, at: float, words: str = NO_KERNEL, is_unused: bool = False, device: int | None = None
) -> list[Effect]:
    """The last server of the play ends because of its GPUs; the effects."""
    failure = ev.GpuFailure(words, is_unused, device)
    return play.post(ev.Exited(play.state.servers[-1].id, f"exit code 1\n{words}", at, gpu_failure=failure))


def ready(play: GpuPlay, at: float) -> None:
    server = play.state.servers[-1]
    play.post(ev.Spawned(server.id, 1000 + server.id, at), ev.Ready(server.id, 9000 + server.id, at))


def problems(play: GpuPlay, at: float) -> list[str]:
    play.post(play.polled(at))
    return list(play.state.gpus.problems)


def with_card_a_set_aside(at: float = 1.0) -> GpuPlay:
    play = play_on(UNEQUAL)
    play.request("m")
    failed(play, at)
    ready(play, at)
    return play


def test_a_load_that_fails_with_a_cuda_error_is_tried_again_on_another_card():
    play = play_on(UNEQUAL)
    assert where(play.request("m")) == [("GPU-a",)]
    effects = failed(play, at=1.0)
    assert where(effects) == [("GPU-b",)] and refusals(effects) == {}
    assert ProbeEngine() in effects
    assert problems(play, at=2.0) == [], "one failure does not say whether card or model is to blame"


def test_a_card_is_set_aside_once_its_model_was_loaded_on_another():
    """A small old card, which the build does not support, failed six of six loads beside an idle good one."""
    play = with_card_a_set_aside()
    assert [gpu.uuid for gpu in play.state.gpus.gpus] == ["GPU-b"]
    (problem,) = problems(play, at=2.0)
    assert problem == f"GPU 0 (card, GPU-a): set aside, next try in 60 s, because loads failed on it: {NO_KERNEL}"
    assert where(play.request("n", at=3.0)) == [("GPU-b",)]


def test_a_card_that_was_set_aside_is_tried_again_later_and_each_failure_doubles_the_pause():
    play = with_card_a_set_aside(at=1.0)
    for number, seconds in ((2, 2 * FIRST_PAUSE_SECONDS), (3, 4 * FIRST_PAUSE_SECONDS)):
        until = play.state.card_failures["GPU-a"].until
        assert where(play.request(f"m{number}", at=until + 0.5)) == [("GPU-a",)]
        assert where(failed(play, at=until + 1)) == [("GPU-b",)]
        ready(play, at=until + 2)
        assert play.state.card_failures["GPU-a"].until == until + 1 + seconds


def test_a_load_that_succeeds_forgives_its_card():
    play = with_card_a_set_aside(at=1.0)
    play.request("n", at=1.5 + FIRST_PAUSE_SECONDS)
    assert play.state.servers[-1].placement.uuids == ("GPU-a",)
    ready(play, at=100.0)
    assert play.state.card_failures == {}


def test_no_pause_is_longer_than_an_hour():
    failures = {"GPU-a": CardFailure(pauses=1)}
    for _ in range(100):
        failures = with_failed_load(failures, ["GPU-a"], "m", NO_KERNEL, 0.0, is_other_up=True)
    assert failures["GPU-a"].until == MAX_PAUSE_SECONDS


def test_a_model_that_fails_on_every_card_is_to_blame_and_no_card():
    play = play_on(TWO)
    (first,) = where(play.request("m"))
    (second,) = where(failed(play, at=1.0))
    assert {first, second} == {("GPU-a",), ("GPU-b",)}
    effects = failed(play, at=2.0)
    assert refusals(effects) == {1: Reason.LOAD_FAILED} and where(effects) == []
    assert play.state.card_failures == {} and problems(play, at=3.0) == []


def test_a_model_that_fails_on_the_only_card_is_in_backoff_and_tried_there_again():
    play = play_on(ONE)
    for number in (1, 2):
        assert where(play.request("m", at=10.0 * number)) == [("GPU-a",)]
        assert refusals(failed(play, at=10.0 * number + 1)) == {number: Reason.LOAD_FAILED}
    assert problems(play, at=30.0) == []
    assert refusals(play.request("m", at=22.0)) == {3: Reason.LOAD_FAILED}, "in backoff"


def test_two_models_that_fail_on_a_card_while_another_works_set_it_aside():
    """Each may use that card only, so neither could show that it loads elsewhere."""
    play = play_on(UNEQUAL)
    play.loaded("good", constraints=PlacementConstraints(gpus=("GPU-b",)))
    for number, name in ((2, "m"), (3, "n")):
        assert problems(play, at=10.0 * number - 1) == []
        assert where(play.request(name, at=10.0 * number, constraints=ON_A)) == [("GPU-a",)]
        assert refusals(failed(play, at=10.0 * number + 1)) == {number: Reason.LOAD_FAILED}
    assert len(problems(play, at=32.0)) == 1
    assert refusals(play.request("o", at=33.0, constraints=ON_A)) == {4: Reason.NO_GPU}


def test_a_model_that_may_use_only_a_card_that_is_set_aside_is_told_so():
    play = with_card_a_set_aside()
    assert refusals(play.request("pinned", at=3.0, constraints=ON_A)) == {2: Reason.NO_GPU}
    refusal = play.effects[-1].refusal  # type: ignore[union-attr]
    assert "set aside" in refusal.detail and NO_KERNEL in refusal.detail


def test_the_last_card_that_is_left_is_used_although_it_is_set_aside():
    play = with_card_a_set_aside()
    play.hardware.total_gib = {"GPU-a": 6}
    assert where(play.request("n", at=3.0)) == [("GPU-a",)]


def test_of_a_split_only_the_card_that_the_engine_names_is_avoided():
    play = play_on(Hardware({"GPU-a": 6, "GPU-b": 6, "GPU-c": 6}))
    two = PlacementConstraints(min_gpus=2)
    (first,) = where(play.request("m", constraints=two))
    (second,) = where(failed(play, at=1.0, device=1))
    assert first[1] not in second and first[0] in second


def test_a_split_that_needs_the_failed_card_is_tried_once_more_and_then_rejected():
    play = play_on(TWO)
    two = PlacementConstraints(min_gpus=2)
    assert where(play.request("m", constraints=two)) == [("GPU-a", "GPU-b")]
    assert where(failed(play, at=1.0, device=1)) == [("GPU-a", "GPU-b")]
    assert refusals(failed(play, at=2.0, device=1)) == {1: Reason.LOAD_FAILED}


def crashed(play: GpuPlay, at: float, words: str, is_of_card: bool) -> list[Effect]:
    """The last server ends while it answers."""
    failure = ev.GpuFailure(words, is_of_card=is_of_card)
    return play.post(ev.Exited(play.state.servers[-1].id, words, at, exit_code=-6, gpu_failure=failure))


def test_a_request_is_not_to_blame_for_a_card_that_breaks_while_it_is_answered():
    """It would be suspect, and refused for an hour once the card had failed again."""
    play = play_on(UNEQUAL)
    ask = partial(play.request, "m", command=partial(ev.Acquire, request_hash="hash"))
    ask()
    ready(play, at=1.0)
    crashed(play, 2.0, "CUDA error: uncorrectable ECC error encountered", is_of_card=True)
    assert play.state.suspects == {} and "ECC" in play.state.endings[1].detail
    assert where(ask(at=3.0)) == [("GPU-b",)]
    ready(play, at=4.0)
    assert "ECC" in problems(play, at=5.0)[0]


def test_a_card_is_not_to_blame_for_an_error_that_a_request_may_have_caused():
    play = play_on(UNEQUAL)
    play.request("m", command=partial(ev.Acquire, request_hash="hash"))
    ready(play, at=1.0)
    crashed(play, 2.0, "CUDA error: an illegal memory access was encountered", is_of_card=False)
    assert play.state.card_failures == {}


def test_a_replica_that_fails_on_a_card_rejects_nobody():
    failures = with_failed_load({}, ["GPU-a"], "m", NO_KERNEL, 0.0, is_other_up=True)
    assert with_successful_load(failures, [CPU], "m", 1.0) == failures, "the CPU says nothing about cards"


# --- engines that use no GPU -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fallback", "answer"),
    [(CpuFallback.AUTO, Reason.NO_GPU), (CpuFallback.NEVER, Reason.NO_GPU), (CpuFallback.WHEN_FULL, CPU)],
)
def test_a_server_that_uses_no_gpu_is_a_failed_load(fallback: CpuFallback, answer: str):
    """The driver was updated under the service: CUDA failed in each new process, and models ran on the CPU for 38
    minutes, with `cuda:0` in the header."""
    play = play_on(ONE, SchedulingLimits(cpu_fallback=fallback))
    allowed = PlacementConstraints(cpu_when_full=fallback is CpuFallback.WHEN_FULL)
    assert where(play.request("m", constraints=allowed)) == [("GPU-a",)]
    effects = failed(play, 1.0, NO_DEVICE, is_unused=True)
    assert (where(effects), refusals(effects)) == (([(CPU,)], {}) if answer == CPU else ([], {1: answer}))
    assert ProbeEngine() in effects
    (problem,) = problems(play, at=2.0)
    assert "set aside, next try in 10 s, because a load computed on the CPU" in problem
    assert NO_DEVICE in problem


def test_no_load_is_started_while_the_only_card_is_unused_and_one_later_succeeds():
    play = play_on(ONE)
    play.request("m")
    failed(play, 1.0, NO_DEVICE, is_unused=True)
    effects = play.request("m", at=3.0)
    assert refusals(effects) == {2: Reason.NO_GPU}
    assert effects[-1].refusal.retry_after_seconds == 3.0  # type: ignore[union-attr]
    assert where(play.request("m", at=7.0)) == [("GPU-a",)]
    ready(play, at=8.0)
    assert problems(play, at=9.0) == []


def test_a_card_that_is_unused_again_and_again_is_tried_once_a_minute():
    play = play_on(ONE)
    at, starts = 0.0, 0
    while at < 600:
        if where(play.request("m", at=at)):
            starts += 1
            failed(play, at + 0.5, NO_DEVICE, is_unused=True)
        at += 1.0
    assert 10 <= starts <= 15


def test_an_engine_that_cannot_use_one_of_two_cards_loads_on_the_other():
    play = play_on(UNEQUAL)
    assert where(play.request("m")) == [("GPU-a",)]
    assert where(failed(play, 1.0, NO_DEVICE, is_unused=True)) == [("GPU-b",)]


def test_a_model_whose_server_uses_no_gpu_beside_one_that_does_is_to_blame_itself():
    play = play_on(Hardware({"GPU-a": 24}))
    play.loaded("good")
    play.request("m", at=1.0)
    assert refusals(failed(play, 2.0, NO_DEVICE, is_unused=True)) == {2: Reason.NO_GPU}
    assert problems(play, at=3.0) == []
    assert "m" in play.state.backoffs


def test_requests_of_a_server_that_turns_out_to_use_no_gpu_are_told_why():
    play = play_on(ONE)
    play.request("m")
    ready(play, at=1.0)
    failed(play, 1.2, NO_DEVICE, is_unused=True)
    assert NO_DEVICE in play.state.endings[1].detail
    assert play.state.suspects == {}, "the request is not to blame"


def test_a_snapshot_without_cards_set_aside_is_the_same():
    play = play_on(ONE)
    before: GpuSnapshot = replace(play.state.gpus)
    play.post(ev.GpusPolled(before, at=0.0))
    assert play.state.gpus is before


def test_a_load_ordered_by_a_client_is_noted_when_it_fails_on_its_card():
    play = play_on(ONE)
    (spawned,) = [e for e in play.request("m", command=ev.Load) if isinstance(e, Spawn)]
    failed(play, at=1.0)
    assert NO_KERNEL in play.state.failures[spawned.server.model.name].detail
