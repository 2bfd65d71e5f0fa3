"""GPU findings: each state of docs/gpus.md is recognised, and has a fix."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.placement import CpuFallback
from app.use_cases.diagnosis.finding import Finding, Level
from app.use_cases.diagnosis.gpus import DeviceFile, GpuFacts, gpu_findings

GIB = 1024**3
ON_BUS = "there is one on the PCI bus (0000:01:00.0); to run without it: gpu.enabled: false"
JETSON = "the kernel module of a Jetson's GPU is loaded (nvgpu); to run without it: gpu.enabled: false"
RTX = Gpu("GPU-a", 0, "RTX 4090", total_bytes=24 * GIB, free_bytes=20 * GIB)


def findings(snapshot: GpuSnapshot, **facts: Any) -> list[Finding]:
    return gpu_findings(GpuFacts(snapshot, **facts))


def a_snapshot(*gpus: Gpu, state: GpuState = GpuState.OK, **more: Any) -> GpuSnapshot:
    return GpuSnapshot(state, at=0.0, gpus=gpus, **more)


def test_gpus_that_work_are_one_line_with_sizes():
    unified = Gpu("GPU-b", 1, "GB10", total_bytes=119 * GIB, free_bytes=100 * GIB, is_unified=True)
    snapshot = a_snapshot(RTX, unified, driver_version="580.95", cuda_version="13.0")
    text = (
        "driver 580.95, CUDA 13.0, NVML, 2 GPUs: RTX 4090 (24.0 GiB, 20.0 GiB free), "
        "GB10 (119 GiB, unified with RAM, 100 GiB free)"
    )
    assert findings(snapshot) == [Finding(Level.OK, "GPUs", text)]


@pytest.mark.parametrize("state", [GpuState.NO_LIBRARY, GpuState.NO_DRIVER, GpuState.NO_GPU, GpuState.FAILED])
def test_a_gpu_is_a_problem_only_where_one_should_be(state: GpuState):
    (absent,) = findings(a_snapshot(state=state, problem="none"))
    assert absent.level is Level.OK
    (gone,) = findings(a_snapshot(state=state, problem="it is gone", expected=ON_BUS))
    assert (gone.level, gone.text) == (Level.PROBLEM, "it is gone; there is one on the PCI bus (0000:01:00.0)")


@pytest.mark.parametrize("state", [GpuState.NO_PACKAGE, GpuState.VERSION_MISMATCH, GpuState.NOT_FOUND, GpuState.HUNG])
def test_a_state_that_no_machine_should_have_needs_no_evidence(state: GpuState):
    (found,) = findings(a_snapshot(state=state, problem="broken"))
    assert (found.level, found.text, bool(found.fix)) == (Level.PROBLEM, "broken", True)


@pytest.mark.parametrize(
    ("state", "facts", "fix"),
    [
        (GpuState.NO_LIBRARY, {}, "install the NVIDIA driver; to run on the CPU: gpu.enabled: false"),
        (GpuState.NO_LIBRARY, {"in_container": True}, "start the container with --gpus all"),
        (GpuState.FAILED, {"in_container": True}, "restart the container"),
        (GpuState.NO_DRIVER, {}, "sudo modprobe nvidia"),
        (GpuState.NO_DRIVER, {"is_nouveau_loaded": True}, "nouveau has the GPU"),
        (GpuState.VERSION_MISMATCH, {}, "reboot"),
        (GpuState.LOST, {}, "nvidia-smi; sudo dmesg"),
        (GpuState.HUNG, {}, "sudo dmesg"),
        (GpuState.NOT_FOUND, {}, "unset CUDA_VISIBLE_DEVICES"),
        (GpuState.NO_PACKAGE, {}, "install nvidia-ml-py"),
    ],
)
def test_each_state_has_a_fix_of_its_own(state: GpuState, facts: dict[str, Any], fix: str):
    assert findings(a_snapshot(state=state, problem="x", expected=ON_BUS), **facts)[0].fix.startswith(fix)


def test_a_jetson_without_nvml_needs_a_newer_jetpack():
    assert "JetPack 6" in findings(a_snapshot(state=GpuState.NO_LIBRARY, problem="x", expected=JETSON))[0].fix


def test_disabled_gpus_are_no_problem():
    snapshot = a_snapshot(state=GpuState.DISABLED, problem="gpu.enabled is false")
    assert findings(snapshot) == [Finding(Level.OK, "GPUs", "not used: gpu.enabled is false")]


def test_a_missing_gpu_is_a_problem_beside_those_that_work():
    gone = MissingGpu("GPU-b", 1, "RTX 3090", "memory cannot be read: Unknown Error")
    found = findings(a_snapshot(RTX, missing=(gone,)))[1]
    assert (found.level, found.subject) == (Level.PROBLEM, "GPU 1")
    assert found.text == "RTX 3090, GPU-b: memory cannot be read: Unknown Error"
    assert found.fix.startswith("nvidia-smi")


def test_a_gpu_that_the_engine_cannot_use_has_the_engines_advice_as_its_fix():
    words = "the engine cannot use it: failed to initialize CUDA: no CUDA-capable device is detected (load nvidia_uvm)"
    (found,) = findings(a_snapshot(missing=(MissingGpu("GPU-a", 0, "RTX 4090", words),)))
    assert found.text.endswith("no CUDA-capable device is detected") and found.fix == "load nvidia_uvm"


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("the engine cannot use it: its --list-devices does not list it", "built for this GPU"),
        ("none of the engine's Vulkan devices has its name and size (llvmpipe with 1 MiB)", "a CUDA build"),
    ],
)
def test_a_gpu_that_the_engine_does_not_list_needs_another_engine(words: str, fix: str):
    assert fix in findings(a_snapshot(RTX, missing=(MissingGpu("GPU-b", 1, "RTX 3090", words),)))[1].fix


def test_an_engine_without_cuda_is_a_problem_where_there_are_gpus():
    words = "the engine (1) has no CUDA: its --list-devices lists no GPU. Next: llama-smart-proxy engine install"
    found = findings(a_snapshot(RTX, engine_problem=words))[1]
    expected = "the engine (1) has no CUDA: its --list-devices lists no GPU"
    assert found == Finding(Level.PROBLEM, "engine", expected, "llama-smart-proxy engine install")


def test_a_momentary_error_a_display_and_an_assumed_number_are_warnings():
    gpu = Gpu("GPU-a", 0, "RTX", drives_display=True, problem="busy", vulkan_number=1, is_vulkan_assumed=True)
    found = findings(a_snapshot(gpu))[1:]
    assert [(str(each.level), bool(each.fix)) for each in found] == [("warn", True)] * 3
    assert "512 MiB is reserved" in found[1].text


def test_a_gpu_seen_before_and_not_listed_beside_others_is_a_warning():
    seen = {"GPU-a": "RTX 4090", "GPU-b": "RTX 3090"}
    found = findings(a_snapshot(RTX), seen_before=seen)[1]
    assert (found.level, found.text) == (Level.WARNING, "RTX 3090 (GPU-b) was seen before and is not listed now")
    assert len(findings(a_snapshot(RTX), seen_before=seen, visible="0")) == 1
    assert len(findings(a_snapshot(Gpu("MIG-1", 0, "A100", is_mig=True)), seen_before=seen)) == 1


def test_device_files_that_are_missing_or_closed_are_problems():
    nodes = [DeviceFile("/dev/nvidia0", False, "video"), DeviceFile("/dev/nvidiactl", False, "video")]
    uvm, denied = findings(a_snapshot(RTX), devices=nodes)[1:]
    assert (uvm.level, uvm.fix) == (Level.PROBLEM, "sudo nvidia-modprobe -u -c=0")
    assert (denied.text, denied.fix) == (
        "permission denied: /dev/nvidia0, /dev/nvidiactl",
        "sudo usermod -aG video $USER, and log in again",
    )


def test_a_name_in_the_settings_that_no_gpu_has_is_a_warning():
    found = findings(a_snapshot(RTX), unmatched=["gpu.order: '7' matches no GPU"])[1]
    assert (found.level, found.text) == (Level.WARNING, "gpu.order: '7' matches no GPU")


def test_settings_that_forbid_the_cpu_are_a_problem_on_a_machine_without_a_gpu():
    snapshot = a_snapshot(state=GpuState.NO_DRIVER, problem="the NVIDIA driver is not loaded")
    found = findings(snapshot, fallback=CpuFallback.NEVER)[-1]
    assert (found.level, found.fix) == (Level.PROBLEM, "gpu.cpu_fallback: auto")
