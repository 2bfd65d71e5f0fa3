"""GPUs in /health, on the page and in the metrics: the whole service with a fake NVML."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.helpers.fake_llama_server import install_fake
from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn, an_a100, needs_compiler

GB = 1024**3
MIB = 1024**2
A = Card("GPU-a", bus="00000000:01:00.0")
B = Card("GPU-b", "NVIDIA GeForce RTX 3060", 12288, 100, 90, 70, 160_000, "8.6", "00000000:02:00.0")


def block(service: Service) -> dict[str, Any]:
    status: dict[str, Any] = service.get("/health").json()["gpu_pool_status"]
    return status


def reasons(service: Service) -> list[str]:
    health = service.get("/health").json()
    assert health["degraded"] == bool(health["reasons"])
    assert health["status"] == "ok"
    return list(health["reasons"])


def gpu_series(service: Service) -> list[str]:
    page = service.get("/metrics").text
    return [line for line in page.splitlines() if line.startswith("llama_smart_proxy_gpu_")]


def sees(service: Service, *uuids: str) -> None:
    wait_for(lambda: [gpu["uuid"] for gpu in block(service)["gpus"]] == list(uuids), 20, lambda: block(service))


def serving_on(hardware: StandIn, folder: Path, **variables: str):
    """The service with a CPU engine that is assumed to use the fake GPUs (engine.assume_gpu)."""
    return serving(folder, plain=hardware.environment | variables, GPU__POLL_SECONDS="0.1", ENGINE__ASSUME_GPU="true")


@pytest.fixture
def hardware(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path / "hardware")


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_gpu_is_shown_with_its_own_figures(hardware: StandIn, tmp_path: Path, count: int):
    cards = [Card(f"GPU-{n}", f"Card {n}", 8192 * (n + 1), 100 * n, 10 * n, 30 + n, 20_000 + n) for n in range(count)]
    hardware.show(*cards[:-1], replace(cards[-1], flags=("display",)))
    reserve = json.dumps({"GPU-0": "1GiB", "GPU-9": "1GiB"})
    with serving_on(hardware, tmp_path, LLAMA_SMART_PROXY_GPU__RESERVE=reserve) as service:
        sees(service, *(card.uuid for card in cards))
        shown = block(service)
        page = service.get("/").text
        (warning,) = (line for line in service.lines if "matches no GPU" in line)
    assert "gpu.reserve: 'GPU-9' matches no GPU; there are: 0 (Card 0, GPU-0)" in warning
    assert [gpu["reserve_bytes"] for gpu in shown["gpus"]] == [GB, *([GB // 2] * (count - 1))]
    assert (shown["total_gpus"], shown["available_gpus"], shown["state"]) == (count, count, "ok")
    assert shown["total_vram"] == shown["total_memory"] == sum(card.total_mib for card in cards) / 1024
    assert shown["used_memory"] == sum(card.used_mib for card in cards) / 1024
    assert shown["available_vram"] == shown["free_memory"] == shown["total_vram"] - shown["used_memory"]
    assert shown["utilization_average"] == sum(card.utilization for card in cards) / count
    assert shown["gpu_available"] and shown["gpu_monitoring_enabled"]
    assert shown["gpu_list"] == shown["gpus"]
    assert [gpu["drives_display"] for gpu in shown["gpus"]] == [*([False] * (count - 1)), True]
    last = shown["gpus"][-1]
    n = count - 1
    assert (last["id"], last["name"], last["temperature"], last["utilization"]) == (n, f"Card {n}", 30 + n, 10 * n)
    assert last["total_bytes"] == 8192 * count * MIB
    assert last["free_memory"] * GB == last["free_bytes"] == (8192 * count - 100 * n) * MIB
    assert (last["power_usage"], last["compute_capability"]) == (20 + n / 1000, "8.9")
    assert all(card.name in page for card in cards)


@needs_compiler
def test_a_gpu_is_lost_while_serving_and_recovers(hardware: StandIn, tmp_path: Path):
    hardware.show(A, B)
    with serving_on(hardware, tmp_path) as service:
        sees(service, "GPU-a", "GPU-b")
        assert service.chat().status_code == 200
        assert reasons(service) == []
        hardware.show(Card("GPU-a", flags=("lost",)), B)
        sees(service, "GPU-b")
        assert [reason[:40] for reason in reasons(service)] == ["GPU 0 (NVIDIA GeForce RTX 4090, GPU-a): "]
        assert service.chat().status_code == 200
        assert "the driver has lost it" in service.get("/").text
        series = gpu_series(service)
        assert 'llama_smart_proxy_gpu_missing{gpu="0",uuid="GPU-a"} 1.0' in series
        assert not [line for line in series if "GPU-a" in line and "_missing" not in line]
        assert 'llama_smart_proxy_nvml_errors_total{error="GpuIsLost"}' in service.get("/metrics").text
        hardware.show(A, B)
        sees(service, "GPU-a", "GPU-b")
        assert reasons(service) == []
        assert "_gpu_missing{" not in "".join(gpu_series(service))


@needs_compiler
def test_idle_gpus_sleep_until_a_model_needs_them(hardware: StandIn, tmp_path: Path):
    """An open NVML alone keeps a card awake. Health checks, scrapes, the page and its stream do not wake it, and are
    no use of it."""
    hardware.show(A)
    with serving_on(hardware, tmp_path, LLAMA_SMART_PROXY_GPU__IDLE_CLOSE_SECONDS="0.5") as service:
        wait_for(lambda: block(service)["state"] == "asleep", 20, lambda: block(service))
        assert not any(hardware.is_open(pid) for pid in service_pids(service))
        viewer = service.connect()
        viewer.sendall(b"GET /status/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)  # five polls
        status = service.get("/status").json()
        assert (status["gpus_state"], [gpu["free_bytes"] for gpu in status["gpus"]]) == ("asleep", [24264 * MIB])
        shown, page = block(service), service.get("/metrics").text
        assert (shown["state"], shown["gpu_available"], shown["total_gpus"]) == ("asleep", True, 1)
        assert shown["gpus"][0]["free_bytes"] == 24264 * MIB
        assert 0.5 <= shown["age_seconds"] < 20
        assert reasons(service) == []
        assert [line.split("{")[0] for line in gpu_series(service)] == ["llama_smart_proxy_gpu_info"]
        assert 'llama_smart_proxy_nvml_state{state="asleep"} 1.0' in page
        assert 'llama_smart_proxy_nvml_state{state="ok"} 0.0' in page
        assert "Asleep until a model needs them" in service.get("/").text
        assert service.get("/readyz").status_code == 200
        assert service.get("/plan").json()["models"][0]["text"] == "fits GPU 0"
        assert service.post("/plan", {"model": "demo"}).json()["placement"]["device"] == "cuda:0"
        assert (block(service)["state"], service.servers()) == ("asleep", [])
        assert not any(hardware.is_open(pid) for pid in service_pids(service))
        viewer.close()
        with service.chat() as answer:
            assert (answer.status_code, answer.headers["x-llama-smart-proxy-device"]) == (200, "cuda:0")
        assert block(service)["state"] == "ok"
        assert any(hardware.is_open(pid) for pid in service_pids(service))
        assert service.post("/models/unload", {"model": "demo"}).status_code == 200
        wait_for(lambda: block(service)["state"] == "asleep", 20, lambda: block(service))
        hardware.show(replace(A, flags=("lost",)))
        time.sleep(0.3)
        assert (block(service)["state"], reasons(service)) == ("asleep", [])
        with service.chat() as answer:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_gpu")
        assert reasons(service)[0].startswith("no GPU: all GPUs seen before are gone")
        hardware.show(A)
        wait_for(lambda: not reasons(service), 20, lambda: reasons(service))


def service_pids(service: Service) -> list[int]:
    """gunicorn's arbiter and worker."""
    arbiter = psutil.Process(service.process.pid)
    return [arbiter.pid, *(child.pid for child in arbiter.children(recursive=True))]


@needs_compiler
def test_metrics_use_base_units(hardware: StandIn, tmp_path: Path):
    untold = ("no_utilization", "no_temperature", "no_power", "no_pci", "no_capability", "no_processes")
    hardware.show(A, Card("GPU-m", "Grace", flags=untold), Card("GPU-u", flags=("no_memory",)))
    with serving_on(hardware, tmp_path) as service:
        sees(service, "GPU-a", "GPU-m")
        series, page = gpu_series(service), service.get("/metrics").text
        assert reasons(service) == ["GPU 2 (NVIDIA GeForce RTX 4090, GPU-u): memory cannot be read: Not Supported"]
    of_a, of_m = 'gpu="0",uuid="GPU-a"', 'gpu="1",uuid="GPU-m"'
    prefix = "llama_smart_proxy_gpu_"
    figures = dict(line.rsplit(" ", 1) for line in series if "info" not in line)
    assert {name: float(figure) for name, figure in figures.items()} == {
        f"{prefix}memory_total_bytes{{{of_a}}}": 24564 * MIB,
        f"{prefix}memory_used_bytes{{{of_a}}}": 300 * MIB,
        f"{prefix}memory_free_bytes{{{of_a}}}": 24264 * MIB,
        f"{prefix}memory_claimed_bytes{{{of_a}}}": 0,
        f"{prefix}memory_unified{{{of_a}}}": 0,
        f"{prefix}utilization_ratio{{{of_a}}}": 0.07,
        f"{prefix}temperature_celsius{{{of_a}}}": 41,
        f"{prefix}power_watts{{{of_a}}}": 22.5,
        f"{prefix}memory_total_bytes{{{of_m}}}": 24564 * MIB,
        f"{prefix}memory_used_bytes{{{of_m}}}": 300 * MIB,
        f"{prefix}memory_free_bytes{{{of_m}}}": 24264 * MIB,
        f"{prefix}memory_claimed_bytes{{{of_m}}}": 0,
        f"{prefix}memory_unified{{{of_m}}}": 0,
        f'{prefix}missing{{gpu="2",uuid="GPU-u"}}': 1,
    }
    assert f'{prefix}info{{gpu="1",name="Grace",pci_bus="",uuid="GPU-m"}} 1.0' in series
    assert 'llama_smart_proxy_nvml_state{state="ok"} 1.0' in page
    stamp = float(page.split("\nllama_smart_proxy_nvml_last_read_timestamp_seconds ")[1].split()[0])
    assert abs(stamp - time.time()) < 20


@needs_compiler
def test_a_hanging_nvml_delays_no_request(hardware: StandIn, tmp_path: Path):
    """Neither /health, the page, a request for a loaded model nor the shutdown."""
    hardware.show(A)
    with serving_on(hardware, tmp_path) as service:
        sees(service, "GPU-a")
        assert service.chat().status_code == 200
        hardware.show(A, faults=("delay nvmlDeviceGetMemoryInfo 600000",))
        wait_for(lambda: reasons(service), 20)
        assert "NVML has not responded" in reasons(service)[0]
        for ask in (lambda: service.get("/health"), lambda: service.get("/"), service.chat):
            began = time.monotonic()
            assert ask().status_code == 200
            assert time.monotonic() - began < 2
        shown = block(service)
        assert (shown["state"], shown["gpu_available"], len(shown["gpus"])) == ("hung", False, 1)
        assert not [line for line in gpu_series(service) if "_bytes" in line]  # stale figures are not exported
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 10


@needs_compiler
def test_the_service_recovers_when_nvml_stops_hanging(hardware: StandIn, tmp_path: Path):
    hardware.show(A)
    with serving_on(hardware, tmp_path) as service:
        sees(service, "GPU-a")
        hardware.show(A, faults=("delay nvmlDeviceGetUUID 4000",))
        wait_for(lambda: reasons(service), 20)
        hardware.show(A)
        wait_for(lambda: not reasons(service), 20)


@needs_compiler
@pytest.mark.parametrize("fault", ["error nvmlInitWithFlags 18", "error all 999", "unload", "nothing listed"])
def test_vanished_gpus_are_reported_and_used_again_when_they_return(hardware: StandIn, tmp_path: Path, fault: str):
    """Also after a restart: GPUs seen before are remembered."""
    hardware.show(A)
    with serving_on(hardware, tmp_path) as service:
        sees(service, "GPU-a")
    _break(hardware, fault)
    with serving_on(hardware, tmp_path) as service:
        wait_for(lambda: reasons(service), 20)
        (reason,) = reasons(service)
        assert reason.startswith("no GPU: ") and "seen before: NVIDIA GeForce RTX 4090" in reason
        assert block(service)["total_gpus"] == 0
        assert reason.split("; ")[0].removeprefix("no GPU: ") in service.get("/").text.replace("&#39;", "'")
        hardware.show(A)
        sees(service, "GPU-a")
        assert reasons(service) == []


def _break(hardware: StandIn, fault: str) -> None:
    if fault == "unload":
        hardware.unload()
    elif fault == "nothing listed":
        hardware.show()
    else:
        hardware.show(A, faults=(fault,))


@needs_compiler
def test_gpus_the_engine_cannot_use_are_reported_and_the_cpu_is_used(hardware: StandIn, tmp_path: Path):
    hardware.show(A)
    with serving(tmp_path, plain=hardware.environment, ENGINE__BINARY="embedded") as service:
        sees(service, "GPU-a")
        (reason,) = reasons(service)
        assert reason.startswith("the engine (xllamacpp ") and "has no CUDA: its --list-devices lists no GPU" in reason
        assert (block(service)["state"], block(service)["gpu_available"]) == ("ok", False)
        assert reason in service.get("/").text
        assert service.chat().status_code == 200
        (said,) = (line for line in service.lines if "has no CUDA" in line and "WARNING" in line)
        assert "Next: llama-smart-proxy engine install --cuda" in said
        assert any(line.startswith("  the engine (xllamacpp ") for line in service.lines)  # in the ready message


@needs_compiler
@pytest.mark.parametrize("devices", ["CUDA0", "ROCm0"])
def test_a_llama_servers_device_list_is_trusted(hardware: StandIn, tmp_path: Path, devices: str):
    engine = install_fake(tmp_path / "bin", FAKE_DEVICES=devices)
    hardware.show(A)
    with serving(tmp_path, plain=hardware.environment, ENGINE__BINARY=str(engine)) as service:
        sees(service, "GPU-a")
        assert block(service)["gpu_available"] == (devices == "CUDA0") == (not reasons(service))


@needs_compiler
def test_cuda_visible_devices_limits_the_service(hardware: StandIn, tmp_path: Path):
    hardware.show(A, B, an_a100())
    with serving_on(hardware, tmp_path, CUDA_VISIBLE_DEVICES="GPU-c,GPU-a") as service:
        sees(service, "GPU-cccc", "GPU-a")


@needs_compiler
@pytest.mark.parametrize("value", ["", "-1"])
def test_a_service_with_no_visible_gpu_is_not_degraded(hardware: StandIn, tmp_path: Path, value: str):
    hardware.show(A)
    with serving_on(hardware, tmp_path, CUDA_VISIBLE_DEVICES=value) as service:
        assert reasons(service) == []
        shown = block(service)
        assert (shown["state"], shown["total_gpus"]) == ("disabled", 0)
        assert f"CUDA_VISIBLE_DEVICES={value} hides all" in service.get("/").text


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_gpus_is_reported_in_one_line_and_serves(tmp_path: Path):
    with serving(tmp_path, plain={}) as service:
        assert service.chat().status_code == 200
        assert reasons(service) == []
        shown = block(service)
        lines = [line for line in service.lines if "workers.gpu" in line]
    assert (shown["state"], shown["total_gpus"], shown["gpus"]) == ("no_library", 0, [])
    assert len(lines) == 1 and "INFO [gpus]" in lines[0] and "no NVIDIA GPU: " in lines[0]


@needs_compiler
def test_anonymous_clients_get_no_hardware_details(hardware: StandIn, tmp_path: Path):
    key = "7e4f14d64f8c4fb31a5ef6e5bb4b0bd8dbde8d3b6cd3a15d"
    keys = json.dumps([{"name": "k", "sha256": hashlib.sha256(key.encode()).hexdigest()}])
    hardware.show(A)
    with serving(tmp_path, plain=hardware.environment, KEYS=keys, ENGINE__ASSUME_GPU="true") as service:
        assert set(service.get("/health").json()) == {"status", "degraded"}
        known = requests.get(service.url + "/health", headers={"x-api-key": key}, timeout=20).json()
        assert "gpu_pool_status" in known
