"""GPUs that NVML shows and CUDA cannot use: the whole service on the machines of reports, with a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_llama_server import install_fake
from tests.helpers.gpu_machine import (
    SMALL,
    A,
    B,
    Machine,
    a_card,
    device_of,
    loaded,
    placement_of,
    process_of,
    refusal,
    sees,
)
from tests.helpers.service import Service, wait_for
from tests.helpers.stand_in_nvml import needs_compiler

pytestmark = needs_compiler

UPDATED = "system has unsupported display driver / cuda driver combination"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def health(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/health").json()
    return found


def asking(engine: Path) -> dict[str, str]:
    """Settings with which this engine is used and asked which GPUs it can use."""
    return {"ENGINE__BINARY": str(engine), "ENGINE__ASSUME_GPU": "false"}


def becomes(engine: Path, **settings: object) -> None:
    """The scripted engine behaves like this from its next start on."""
    Path(f"{engine}.json").write_text(json.dumps(settings))


def spawns(service: Service) -> int:
    return sum("spawn server=" in line for line in service.lines)


def test_a_pascal_card_that_a_cuda_13_build_does_not_support_is_set_aside(machine: Machine):
    """The smaller card is chosen first: six of six loads failed there, and a good one was idle. Another one is not in
    the engine's list, and nothing said so."""
    engine = install_fake(machine.folder / "bin", FAKE_CARDS="GPU-a,GPU-b", FAKE_BAD_CARDS="GPU-a")
    machine.show(A, B, a_card("GPU-c", bus="00000000:03:00.0"))
    with machine.serving(models={"m": SMALL, "n": SMALL}, **asking(engine)) as service:
        sees(service, "GPU-a", "GPU-b")
        assert device_of(service, "m") == "cuda:1"
        assert device_of(service, "n") == "cuda:1"
        report = health(service)
        unseen, aside = report["reasons"]
        assert unseen.startswith(
            "GPU 2 (NVIDIA GeForce RTX 4090, GPU-c): the engine cannot use it: failed to initialize "
        )
        assert aside.startswith("GPU 0 (NVIDIA GeForce RTX 4090, GPU-a): set aside, next try in ")
        assert "CUDA error: no kernel image is available for execution on the device (" in aside
        assert [card["uuid"] for card in report["gpu_pool_status"]["missing_gpus"]] == ["GPU-c", "GPU-a"]
        assert "no kernel image is available" in service.get("/").text
        assert 'llama_smart_proxy_gpu_missing{gpu="0",uuid="GPU-a"} 1.0' in service.get("/metrics").text
        assert sum("set aside gpu=0" in line for line in service.lines) == 1
        assert spawns(service) == 3


def test_a_driver_updated_under_the_service_is_recognized(machine: Machine):
    """NVML, mapped before the update, went on: models were on the CPU for 38 minutes, and the header said cuda:0."""
    engine = install_fake(machine.folder / "bin", FAKE_CARDS="GPU-a")
    machine.show(A)
    with machine.serving(models={"m": SMALL, "n": SMALL}, **asking(engine)) as service:
        sees(service, "GPU-a")
        assert device_of(service, "m") == "cuda:0"
        assert service.post("/models/unload", {"model": "m"}).status_code == 200
        becomes(engine, FAKE_CARDS="GPU-a", FAKE_CUDA_INIT=UPDATED)
        for _ in range(3):
            error, retry_after = refusal(service, "n", 503, "no_gpu")
            assert f"failed to initialize CUDA: {UPDATED} (the NVIDIA driver was updated" in error["message"]
            assert retry_after is not None
        assert spawns(service) == 2, "the first load shows it, and the next ones are not started"
        wait_for(lambda: "the engine cannot use it: failed to" in health(service)["reasons"][0], 20)
        assert loaded(service) == {}
        becomes(engine, FAKE_CARDS="GPU-a")
        wait_for(lambda: service.chat("n").status_code == 200, 60)
        assert device_of(service, "n") == "cuda:0"
        assert health(service)["reasons"] == []


def test_an_engine_with_vulkan_and_no_cuda_uses_the_nvidia_gpus_by_vulkans_numbers(machine: Machine):
    """llama.cpp's official Linux binaries: every model was on the CPU. Vulkan counts a CPU first, and has the GPUs in
    another order than NVML."""
    other = a_card("GPU-b", total_mib=2400, name="NVIDIA RTX A2000", bus="00000000:02:00.0")
    machine.show(A, other)
    vulkan = f"llvmpipe (LLVM 19):16000,{other.name}:2400,Intel UHD:16000,{A.name}:{A.total_mib + 40}"
    engine = install_fake(machine.folder / "bin", FAKE_VULKAN=vulkan)
    with machine.serving(models={"m": SMALL, "n": {**SMALL, "gpus": ["GPU-b"]}}, **asking(engine)) as service:
        sees(service, "GPU-a", "GPU-b")
        assert (device_of(service, "m"), device_of(service, "n")) == ("vulkan:0", "vulkan:1")
        numbers = {name: process_of(service, name).environ()["GGML_VK_VISIBLE_DEVICES"] for name in ("m", "n")}
        assert numbers == {"m": "3", "n": "1"}
        assert process_of(service, "m").environ()["CUDA_VISIBLE_DEVICES"] == ""
        report = health(service)
        assert report["reasons"] == []
        assert [gpu["vulkan_number"] for gpu in report["gpu_pool_status"]["gpus"]] == [3, 1]
        assert "vulkan:0" in service.get("/").text
        assert placement_of(service, "m")["device"] == "vulkan:0"
        assert any("device=vulkan:0" in line and "confidence=low" in line for line in service.lines)
