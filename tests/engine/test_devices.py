"""The devices that an engine lists, and whether it can use the NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.entities.gpu import Gpu
from app.entities.launch import EngineFacts, EngineKind
from app.use_cases.placement.vulkan_gpus import ListedDevice
from tests.engine.test_binary import program
from tests.helpers.fake_llama_server import install_fake
from workers.engine import probe_process
from workers.engine.binary import find_engine
from workers.engine.gpu_probe import devices_in_list, list_devices, probe_gpus

CARD = Gpu("GPU-a", 0, "card")


def names(engine: EngineFacts, **extra: str) -> tuple[str, ...] | None:
    """The devices that the engine lists; None if it cannot be asked."""
    return listed.names if (listed := list_devices(engine, extra)) else None


def problem(engine: EngineFacts) -> str:
    probe = probe_gpus(engine, {}, [CARD], lambda: None)
    assert not probe.unusable
    return probe.problem


def a_scripted(folder: Path, text: str) -> EngineFacts:
    """An engine that has --list-devices, which runs the script `text`."""
    path = program(folder, text)
    return EngineFacts(EngineKind.BINARY, (str(path),), "1 (a)", "id", frozenset({"--list-devices"}))


def test_devices_are_parsed_and_the_output_of_backends_before_them_is_not():
    text = """\
ggml_cuda_init: found 2 CUDA devices (Total VRAM: 48160 MiB):
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes, VRAM: 24080 MiB
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23500 MiB free)
  CUDA1: NVIDIA H100 80GB HBM3 MIG 1g.10gb (9856 MiB, 9500 MiB free)
  Vulkan0: NVIDIA GeForce RTX 4090 (NVK AD102) (24564 MiB, 24000 MiB free)
  RPC0[10.0.0.1:50052]: 10.0.0.1:50052 (9856 MiB, 9500 MiB free)
"""
    devices = devices_in_list(text)
    assert [device.name for device in devices] == ["CUDA0", "CUDA1", "Vulkan0", "RPC0[10.0.0.1:50052]"]
    assert devices[2] == ListedDevice("Vulkan0", "NVIDIA GeForce RTX 4090 (NVK AD102)", 24564)
    assert devices_in_list("Available devices:\n  (none)\n") == ()
    assert devices_in_list("Available devices:\n") == ()
    with pytest.raises(ValueError, match=r"printed no list: CUDA0: a \(1 MiB"):
        devices_in_list("  CUDA0: a (1 MiB, 1 MiB free)")


@pytest.mark.parametrize("row", ["  CUDA0 NVIDIA GeForce RTX 4090 24080", "  [0] RTX 4090, 24 GB", " {}"])
def test_a_list_in_another_form_says_nothing_about_the_devices(tmp_path: Path, row: str):
    """It meant an engine without CUDA: after an upgrade every model would have moved to the CPU."""
    with pytest.raises(ValueError, match="in an unknown form"):
        devices_in_list(f"Available devices:\n{row}\n")
    engine = a_scripted(tmp_path, f"echo 'Available devices:'; echo '{row}'")
    assert (names(engine), problem(engine)) == (None, "")


@pytest.mark.parametrize(
    ("devices", "named"),
    [("CUDA0,CUDA1", None), ("Vulkan0,CUDA0", None), ("", "lists no GPU"), ("Vulkan0,ROCm0", "only Vulkan0, ROCm0")],
)
def test_an_engine_without_cuda_is_recognized_by_its_devices(tmp_path: Path, devices: str, named: str | None):
    engine = find_engine(str(install_fake(tmp_path, FAKE_DEVICES=devices)))
    assert names(engine) == tuple(devices.split(",") if devices else ())
    found = problem(engine)
    assert bool(found) == bool(named)
    if named:
        assert found.startswith("the engine (3091 (fake)) has no CUDA: ") and named in found


def test_the_embedded_engine_of_the_cpu_wheel_has_no_cuda():
    assert "has no CUDA: its --list-devices lists no GPU. Next: llama-smart-proxy engine install --cuda" in problem(
        find_engine("embedded")
    )


def test_an_engine_without_list_devices_is_not_probed_and_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    engine = find_engine(str(install_fake(tmp_path)))
    assert (names(engine), problem(engine), caplog.text) == (None, "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'error while loading shared libraries'; exit 127", "no list: error while loading shared libraries"),
        ("echo started; kill -ABRT $$", "was killed by SIGABRT: started"),
        ("exit 0", "printed nothing"),
        ("echo 'Available devices:'; sleep 60", "did not exit within 0.3 s: Available devices:"),
        ("yes", "did not exit within 0.3 s: y"),
    ],
)
def test_a_failed_probe_is_logged_and_the_engine_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str, message: str
):
    monkeypatch.setattr(probe_process, "_TIMEOUT_SECONDS", 0.3)
    engine = a_scripted(tmp_path, text)
    assert (names(engine), problem(engine)) == (None, "")
    assert caplog.records[0].levelname == "WARNING" and message in caplog.text


def test_devices_are_probed_each_time_in_the_environment_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLAMA_ARG_DEVICE", "none")
    engine = a_scripted(tmp_path, 'echo "Available devices:"; echo "  $DEVICE$LLAMA_ARG_DEVICE: a (1 MiB, 1 MiB free)"')
    assert names(engine, DEVICE="CUDA0") == ("CUDA0",)
    assert names(engine, DEVICE="CUDA1") == ("CUDA1",)
