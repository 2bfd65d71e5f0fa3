"""GPUs that are lost, hang, report little or run out of memory: the whole service, fake GPUs whose memory fills up."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_llama_server import install_fake
from tests.helpers.gpu_machine import (
    MIB,
    SMALL,
    A,
    B,
    Machine,
    claimed_bytes,
    decisions,
    device_of,
    gpus,
    loaded,
    option,
    process_of,
    refusal,
    sees,
    sees_used,
    visible,
)
from tests.helpers.service import Service, wait_for
from tests.helpers.stand_in_nvml import needs_compiler

pytestmark = needs_compiler

LOST_A = replace(A, flags=("lost",))
LITTLE = ("no_utilization", "no_temperature", "no_power", "no_pci", "no_capability", "no_mig")
HANGS = "delay nvmlDeviceGetMemoryInfo 600000"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def reasons(service: Service) -> list[str]:
    health = service.get("/health").json()
    assert health["degraded"] == bool(health["reasons"])
    return list(health["reasons"])


@pytest.mark.parametrize(
    ("flag", "reason", "problem"),
    [
        ("lost", "no GPU: all GPUs seen before are gone", "the driver has lost it"),
        ("memory_fails", "no GPU: memory cannot be read: Unknown Error", "memory cannot be read: Unknown Error"),
    ],
)
def test_models_move_to_the_remaining_gpus_and_return_to_a_recovered_one(
    machine: Machine, flag: str, reason: str, problem: str
):
    lost_a, lost_b = replace(A, flags=(flag,)), replace(B, flags=(flag,))
    on_b: dict[str, Any] = {"gpus": ["GPU-b"]}
    machine.show(A, B)
    models = {"loaded": on_b, "m": SMALL, "n": SMALL, "only-on-b": on_b}
    with machine.serving(models=models, gpu={"strategy": "spread"}) as service:
        assert device_of(service, "loaded") == "cuda:1"
        machine.show(lost_a, B)
        sees(service, "GPU-b")
        assert device_of(service, "loaded") == "cuda:1"
        assert device_of(service, "m") == "cuda:1"  # GPU 0 has more free memory
        machine.show(lost_a, lost_b)
        sees(service)
        assert device_of(service, "loaded") == "cuda:1"
        error, retry_after = refusal(service, "n", 503, "no_gpu")
        assert retry_after == "10"
        assert problem in error["message"]
        assert reasons(service)[0].startswith(reason)
        machine.show(A, lost_b)
        sees(service, "GPU-a")
        error, retry_after = refusal(service, "only-on-b", 503, "no_gpu")
        assert (retry_after, "GPU-b" in error["message"]) == ("10", True)
        machine.show(A, B)
        sees(service, "GPU-a", "GPU-b")
        assert reasons(service) == []
        assert device_of(service, "n") == "cuda:0"


def test_when_gpus_are_lost_models_run_on_the_cpu_if_allowed_until_the_gpus_are_back(machine: Machine):
    machine.show(A)
    with machine.serving(models={"m": SMALL, "n": SMALL}, gpu={"cpu_fallback": "when_full"}) as service:
        assert device_of(service, "m") == "cuda:0"
        machine.show(LOST_A)
        sees(service)
        assert device_of(service, "n") == "cpu"
        process, server = process_of(service, "n"), loaded(service)["n"]
        assert (visible(process), option(process, "--n-gpu-layers")) == ([], "0")
        assert (server["gpu_assignment"], set(server["booked_bytes"])) == (None, {"cpu"})
        assert any(reason.startswith("n: on the CPU, because no GPU could be used") for reason in reasons(service))
        machine.show(A)
        wait_for(lambda: "n" not in loaded(service), 20)
        assert device_of(service, "n") == "cuda:0"
        assert reasons(service) == []


@pytest.mark.parametrize("flag", ["hidden_pids", "no_processes", "no_process_bytes"])
def test_gpus_that_report_only_memory_are_shared_without_overcommitment(machine: Machine, flag: str):
    """Also if the second starts while the first loads, when nothing reports which missing memory is already booked."""
    machine.show(replace(A, flags=(*LITTLE, flag)))
    machine.holds_back_at = 0.5
    with machine.serving(models=dict.fromkeys("mno", SMALL)) as service, ThreadPoolExecutor(1) as pool:
        assert service.post("/models/load", {"model": "m"}).status_code == 200
        sees_used(service, GPU_a=272)
        second = pool.submit(device_of, service, "n")
        wait_for(lambda: decisions(service, "?model=n"), 20)
        machine.holds_back_at = None
        assert second.result(40) == "cuda:0"
        assert set(loaded(service)) == {"m", "n"}
        assert device_of(service, "o") == "cuda:0"
        assert (len(loaded(service)), machine.most_at_once) == (2, 2)
        wait_for(lambda: claimed_bytes(service, "GPU-a") == 0, 20)
        shown = gpus(service)["GPU-a"]
    assert shown["free_bytes"] < (1200 - 2 * 546) * MIB
    assert (shown["temperature"], shown["power_usage"], shown["others_bytes"]) == (None, None, None)


def test_a_start_that_runs_out_of_gpu_memory_is_retried_once_and_then_explained(machine: Machine):
    journal = machine.folder / "journal"
    engine = install_fake(machine.folder / "bin", FAKE_LOAD="oom", FAKE_JOURNAL=str(journal))
    machine.show(A)
    with machine.serving(models={"m": SMALL}, ENGINE__BINARY=str(engine)) as service:
        error, retry_after = refusal(service, "m", 503, "model_load_failed")
        assert journal.read_text().count(" bind ") == 2
        assert "allocating 852.89 MiB on device 0: cudaMalloc failed: out of memory" in error["message"]
        assert "failed to load model" in error["message"]
        assert retry_after is None
        second, first = decisions(service)
        assert second["needed_bytes"] - first["needed_bytes"] == 256 * MIB
        assert loaded(service) == {}


def test_a_start_that_ran_out_of_gpu_memory_can_succeed_when_retried(machine: Machine):
    engine = install_fake(machine.folder / "bin", FAKE_OOM_ONCE=str(machine.folder / "ran-out"))
    machine.show(A)  # a second GPU would be taken if the memory of the first is still being released
    with machine.serving(models={"m": SMALL}, ENGINE__BINARY=str(engine)) as service:
        assert device_of(service, "m") == "cuda:0"
        assert len(re.findall("spawn server=", service.output)) == 2
        assert service.get("/v1/models/m").json()["status"]["value"] == "loaded"


def test_a_model_that_ran_out_of_gpu_memory_while_answering_is_started_again_with_more(machine: Machine):
    """The request fails with the reason, and the neighbour on the same card stays."""
    engine = install_fake(machine.folder / "bin", FAKE_DIE_AFTER_TOKENS=5)
    machine.show(replace(A, total_mib=2400))
    with machine.serving(models={"m": SMALL, "n": SMALL}, ENGINE__BINARY=str(engine)) as service:
        assert service.post("/models/load", {"model": "n"}).status_code == 200
        wait_for(lambda: loaded(service)["n"]["port"], 20)
        lines = service.chat("m", stream=True).iter_lines()
        *tokens, last = [line for line in lines if line.startswith(b"data: ")]
        assert len(tokens) == 5
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["code"] == "upstream_crashed"
        assert "m: llama-server ran out of GPU memory during the request" in error["message"]
        before = loaded(service)
        assert list(before) == ["n"]
        assert service.post("/models/load", {"model": "m"}).status_code == 200
        after = loaded(service)
        assert after["n"]["port"] == before["n"]["port"]
        more = after["m"]["booked_bytes"]["GPU-a"] - after["n"]["booked_bytes"]["GPU-a"]
        assert more == 256 * MIB
        assert 'server_stops_total{model="m",reason="out_of_memory"} 1.0' in service.get("/metrics").text


@pytest.mark.parametrize("fallback", ["auto", "when_full"])
def test_cold_models_are_rejected_or_run_on_the_cpu_while_nvml_hangs(machine: Machine, fallback: str):
    machine.show(A)
    with machine.serving(models={"m": SMALL, "n": SMALL}, gpu={"cpu_fallback": fallback}) as service:
        assert device_of(service, "m") == "cuda:0"
        machine.show(A, faults=(HANGS,))
        wait_for(lambda: reasons(service), 40)
        began = time.monotonic()
        assert device_of(service, "m") == "cuda:0"
        assert time.monotonic() - began < 2
        if fallback == "when_full":
            assert device_of(service, "n") == "cpu"
        else:
            error, retry_after = refusal(service, "n", 503, "no_gpu")
            assert ("NVML has not responded" in error["message"], retry_after) == (True, "10")
        assert time.monotonic() - began < 10


def test_a_cold_model_is_placed_by_the_last_reading_while_nvml_hangs(machine: Machine):
    machine.show(A)
    with machine.serving(models={"m": SMALL}, gpu={"poll_seconds": 60}) as service:
        sees(service, "GPU-a")
        machine.show(A, faults=(HANGS,))
        began = time.monotonic()
        assert device_of(service, "m") == "cuda:0"
        assert time.monotonic() - began < 10
        assert decisions(service)[0]["gpus_age_seconds"] > 0.04
