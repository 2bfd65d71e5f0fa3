"""GPUs that NVML shows and CUDA cannot use: the whole service on the machines of reports, with a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_llama_server import install_fake
from tests.helpers.gpu_machine import SMALL, A, B, Machine, device_of, loaded, refusal
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


def becomes(engine: Path, **settings: object) -> None:
    """The scripted engine behaves like this from its next start on."""
    Path(f"{engine}.json").write_text(json.dumps(settings))


def test_a_pascal_card_that_a_cuda_13_build_does_not_support_is_set_aside(machine: Machine):
    """The smaller card is chosen first: six of six loads failed there, and the good one was idle."""
    engine = install_fake(machine.folder / "bin", FAKE_CARDS="GPU-a,GPU-b", FAKE_BAD_CARDS="GPU-a")
    machine.show(A, B)
    with machine.serving(models={"m": SMALL, "n": SMALL}, ENGINE__BINARY=str(engine)) as service:
        assert device_of(service, "m") == "cuda:1"
        assert device_of(service, "n") == "cuda:1"
        report = health(service)
        (reason,) = report["reasons"]
        assert reason.startswith("GPU 0 (NVIDIA GeForce RTX 4090, GPU-a): set aside, next try in ")
        assert "CUDA error: no kernel image is available for execution on the device (" in reason
        (card,) = report["gpu_pool_status"]["missing_gpus"]
        assert card["uuid"] == "GPU-a"
        assert "no kernel image is available" in service.get("/").text
        assert 'llama_smart_proxy_gpu_missing{gpu="0",uuid="GPU-a"} 1.0' in service.get("/metrics").text
        assert sum("set aside gpu=0" in line for line in service.lines) == 1
        assert sum("spawn server=" in line for line in service.lines) == 3


def test_a_driver_updated_under_the_service_is_recognized(machine: Machine):
    """NVML, mapped before the update, went on: models were on the CPU for 38 minutes, and the header said cuda:0."""
    engine = install_fake(machine.folder / "bin", FAKE_CARDS="GPU-a")
    machine.show(A)
    with machine.serving(models={"m": SMALL, "n": SMALL}, ENGINE__BINARY=str(engine)) as service:
        assert device_of(service, "m") == "cuda:0"
        assert service.post("/models/unload", {"model": "m"}).status_code == 200
        becomes(engine, FAKE_CARDS="GPU-a", FAKE_CUDA_INIT=UPDATED)
        error, retry_after = refusal(service, "n", 503, "no_gpu")
        assert retry_after is not None
        assert f"failed to initialize CUDA: {UPDATED} (the NVIDIA driver was updated" in error["message"]
        (reason,) = health(service)["reasons"]
        assert UPDATED in reason and loaded(service) == {}
        becomes(engine, FAKE_CARDS="GPU-a")
        wait_for(lambda: service.chat("n").status_code == 200, 60)
        assert device_of(service, "n") == "cuda:0"
        assert health(service)["reasons"] == []
