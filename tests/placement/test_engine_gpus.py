"""Which GPUs the engine can use, by its own lists of devices."""

from __future__ import annotations

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.launch import OwnEngine
from app.entities.placement import CpuFallback
from app.use_cases.placement.engine_gpus import (
    DeviceList,
    EngineProbe,
    as_the_engine_sees_them,
    engine_probe,
    gpus_to_ask_for,
)
from app.use_cases.placement.usable_gpus import unplaceable_reason
from app.use_cases.placement.vulkan_gpus import ListedDevice

A, B, PART = Gpu("GPU-a", 0, "GTX 1060"), Gpu("GPU-b", 1, "RTX 3090"), Gpu("MIG-1", 0, "A100 MIG 3g.40gb", is_mig=True)


def listing(*names: str) -> DeviceList:
    return DeviceList(tuple(ListedDevice(name, "card", 24000) for name in names))


NOTHING, ONE, BOTH = listing(), listing("CUDA0"), listing("CUDA0", "CUDA1")
FORK = OwnEngine("/opt/fork/llama-server")
FAILING = DeviceList((), "failed to initialize CUDA: no CUDA-capable device is detected")


@pytest.mark.parametrize(
    ("listed", "gpus", "asked"),
    [
        (BOTH, (A, B), ()),
        (BOTH, (A,), ()),
        (ONE, (A, B), (A, B)),
        (FAILING, (A, B), (A, B)),
        (FAILING, (A,), ()),
        (NOTHING, (A, B), ()),
        (listing("Vulkan0", "Vulkan1"), (A, B), ()),
        (ONE, (PART, PART), ()),
        (None, (A, B), ()),
    ],
    ids=["all", "more", "fewer", "a card may make CUDA fail", "failing", "no CUDA", "Vulkan", "MIG", "unknown"],
)
def test_each_gpu_is_asked_for_alone_if_the_engine_lists_fewer(
    listed: DeviceList | None, gpus: tuple[Gpu, ...], asked: tuple[Gpu, ...]
):
    assert gpus_to_ask_for(listed, gpus) == asked


def test_a_gpu_that_is_not_listed_alone_is_unusable_for_the_reason_that_the_engine_gives():
    probe = engine_probe("b1", ONE, {"GPU-a": FAILING, "GPU-b": ONE}, (A, B))
    assert probe == EngineProbe(unusable={"GPU-a": f"the engine cannot use it: {FAILING.cuda_error}"})
    silent = engine_probe("b1", ONE, {"GPU-a": NOTHING, "GPU-b": None}, (A, B))
    assert silent.unusable == {"GPU-a": "the engine cannot use it: its --list-devices does not list it"}


def test_an_engine_whose_cuda_fails_is_not_an_engine_for_the_cpu():
    """The service was started before nvidia-uvm was ready, and its models ran on the CPU."""
    probe = engine_probe("b1", FAILING, {}, (A,))
    snapshot = as_the_engine_sees_them(GpuSnapshot(GpuState.OK, 0.0, (A,)), probe)
    assert not snapshot.has_usable_gpu
    assert FAILING.cuda_error in unplaceable_reason(snapshot, CpuFallback.AUTO)


def test_an_engine_without_cuda_is_one_for_the_cpu():
    probe = engine_probe("b1", listing("Vulkan0"), {}, (A,))
    assert "the engine (b1) has no CUDA: its --list-devices lists only Vulkan0" in probe.problem
    snapshot = as_the_engine_sees_them(GpuSnapshot(GpuState.OK, 0.0, (A,)), probe)
    assert snapshot.problems == (probe.problem,)
    assert unplaceable_reason(snapshot, CpuFallback.AUTO) == ""


@pytest.mark.parametrize("listed", [None, ONE, BOTH])
def test_an_engine_that_lists_all_gpus_or_cannot_be_asked_has_no_problem(listed: DeviceList | None):
    assert engine_probe("b1", listed, {}, (A,)).is_fine


def test_an_unusable_gpu_is_missing_and_the_others_remain():
    lost = MissingGpu("GPU-c", 2, "RTX 4090", "gone")
    probe = EngineProbe(unusable={"GPU-a": "why"}).with_cause("the driver was replaced")
    snapshot = as_the_engine_sees_them(GpuSnapshot(GpuState.OK, 0.0, (A, B), (lost,)), probe)
    assert snapshot.gpus == (B,)
    assert snapshot.problems == (
        "GPU 2 (RTX 4090, GPU-c): gone",
        "GPU 0 (GTX 1060, GPU-a): why; the driver was replaced",
    )


def test_gpus_that_another_engine_can_use_remain_and_each_engine_sees_its_own():
    """CUDA 13 has no code for old cards, and CUDA 12 beside it has."""
    service, own = EngineProbe(unusable={"GPU-a": "too old"}), EngineProbe(unusable={"GPU-b": "too new"})
    read = GpuSnapshot(GpuState.OK, 0.0, (A, B))
    snapshot = as_the_engine_sees_them(read, service, {FORK: own})
    assert (snapshot.gpus, snapshot.problems) == ((A, B), ())
    assert (snapshot.seen_by(None).gpus, snapshot.seen_by(FORK).gpus) == ((B,), (A,))
    assert snapshot.seen_by(FORK).problems == (f"GPU 1 ({B.name}, GPU-b): too new",)
    both = as_the_engine_sees_them(read, service, {FORK: service})
    assert (both.gpus, both.problems) == ((B,), (f"GPU 0 ({A.name}, GPU-a): too old",))


def test_one_engine_for_the_cpu_leaves_the_gpus_to_the_other():
    cpu = EngineProbe("it has no CUDA")
    snapshot = as_the_engine_sees_them(GpuSnapshot(GpuState.OK, 0.0, (A,)), cpu, {FORK: EngineProbe()})
    assert snapshot.has_usable_gpu
    assert (snapshot.seen_by(None).has_usable_gpu, snapshot.seen_by(FORK).has_usable_gpu) == (False, True)
    assert snapshot.engine_problem == "it has no CUDA"
