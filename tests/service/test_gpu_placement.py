"""Placement of models on GPUs: the whole service, real engine processes, fake GPUs whose memory fills up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from app.entities.launch import ALL_LAYERS
from tests.helpers.gpu_machine import (
    LARGE,
    MIB,
    SMALL,
    A,
    B,
    Machine,
    a_card,
    claimed_bytes,
    decisions,
    device_of,
    gpus,
    loaded,
    option,
    placement_of,
    process_of,
    refusal,
    sees,
    sees_used,
    series,
    visible,
)
from tests.helpers.service import serving, wait_for
from tests.helpers.stand_in_nvml import needs_compiler

# A small ubatch makes the KV cache dominate, 4 MiB per layer: 676 MiB on one GPU; on several, about 526 MiB each plus
# its share of the 41 layers.
LAYERED: dict[str, Any] = {"ctx_size": 32768, "ubatch_size": 32}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@needs_compiler
def test_all_reports_agree_on_the_gpu_of_a_model(machine: Machine):
    machine.show(a_card("GPU-a", used_mib=100))
    with machine.serving(models={"m": SMALL}) as service:
        assert device_of(service, "m") == "cuda:0"
        process, placement = process_of(service, "m"), placement_of(service, "m")
        assert visible(process) == ["GPU-a"]
        assert (option(process, "--n-gpu-layers"), option(process, "--tensor-split")) == (str(ALL_LAYERS), None)
        assert option(process, "--ctx-size") == str(placement["ctx_size"]) == "4096"
        assert option(process, "--load-mode") == "none", "all of its weights go to a GPU"
        ((device,), (server,)) = placement["devices"], service.servers()
        booked = server["booked_bytes"]["GPU-a"]
        assert (device["uuid"], server["device"]) == ("GPU-a", "cuda:0")
        assert (
            device["total_bytes"] <= booked <= 1.001 * device["total_bytes"]
        )  # a margin of a part of the compute buffer
        assert server["gpu_assignment"] == {
            "gpu_ids": [0],
            "tensor_splits": [],
            "estimated_vram_required": booked / 1024**3,
            "actual_vram_used": None,  # an engine on the CPU reports no GPUs
            "n_gpu_layers": ALL_LAYERS,
        }
        sees_used(service, GPU_a=100 + booked // MIB)
        card = gpus(service)["GPU-a"]
        assert (card["assigned_models"], card["booked_bytes"], card["others_bytes"]) == (["m"], booked, 100 * MIB)


@needs_compiler
def test_a_spark_that_does_not_tell_its_memory_loads_models_on_its_gpu(machine: Machine):
    """DGX Spark, driver 580: every model was on the CPU, and nothing said so. The machine has 16 GiB of RAM."""
    spark = a_card("GPU-s", total_mib=16384, name="NVIDIA GB10", capability="12.1", flags=("no_memory",))
    machine.show(spark)
    models: dict[str, dict[str, Any]] = {"m": SMALL, "cpu": {"n_gpu_layers": 0}, "pinned-to-it": {"gpus": ["GPU-s"]}}
    with machine.serving(models=models, gpu={"reserve": "512MiB"}) as service:
        assert [device_of(service, model) for model in models] == ["cuda:0", "cpu", "cuda:0"]
        assert visible(process_of(service, "m")) == ["GPU-s"]
        health, card = service.get("/health").json(), gpus(service)["GPU-s"]
        assert (health["degraded"], health["gpu_pool_status"]["gpu_available"]) == (False, True)
        assert (card["unified"], card["total_bytes"], card["reserve_bytes"]) == (True, 16384 * MIB, 2048 * MIB)
        assert series(service, "llama_smart_proxy_gpu_memory_unified") == {'gpu="0",uuid="GPU-s"': 1}
        assert "NVIDIA GB10 (unified memory)" in service.get("/").text
        machine.show(replace(spark, flags=("memory_fails",)))
        assert device_of(service, "m") == "cuda:0"


@needs_compiler
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((614, 614), 2),
        ((590, 640), 2),  # 15 and 27 layers
        ((573,) * 4, 4),  # at most 11 layers each
        ((560, 620, 540, 590), 3),  # 8, 22, 3 and 15 layers
        ((552,) * 8, 7),  # at most 6 layers each
        ((548, 548, 548, 552, 548, 548, 548, 548), 8),  # 5 layers each, once 6
    ],
    ids=str,
)
def test_a_model_too_large_for_one_gpu_is_split_over_the_fewest(machine: Machine, sizes: Sequence[int], expected: int):
    machine.show(*(a_card(f"GPU-{n}", size) for n, size in enumerate(sizes)))
    with machine.serving(models={"m": LAYERED}) as service:
        device, placement, server = device_of(service, "m"), placement_of(service, "m"), loaded(service)["m"]
        process = process_of(service, "m")
        layers = {device["uuid"]: device["layers"] for device in placement["devices"]}
        assert visible(process) == list(layers)
        assert option(process, "--tensor-split") == ",".join(map(str, layers.values()))
    assert (len(layers), sum(layers.values()), min(layers.values()) > 0) == (expected, 41, True)
    assert placement["tensor_split"] == list(layers.values())
    numbers = [int(uuid.removeprefix("GPU-")) for uuid in layers]
    assert device == server["device"] == f"cuda:{','.join(map(str, numbers))}"
    assert server["gpu_assignment"]["gpu_ids"] == numbers
    assert server["gpu_assignment"]["tensor_splits"] == [count / 41 for count in layers.values()]


@needs_compiler
def test_a_gpu_is_identified_by_its_uuid_not_its_index(machine: Machine):
    """NVML order differs from bus order, and changes later."""
    on_a = {"gpus": ["GPU-a"]}
    machine.show(B, A)
    with machine.serving(models={"m": on_a, "n": on_a, "o": SMALL}) as service:
        assert device_of(service, "m") == "cuda:1"
        assert visible(process_of(service, "m")) == ["GPU-a"]
        machine.show(A, B)
        sees(service, "GPU-a", "GPU-b")
        assert [device_of(service, model) for model in "mno"] == ["cuda:0", "cuda:0", "cuda:1"]
        assert [loaded(service)[model]["gpu_assignment"]["gpu_ids"] for model in "mno"] == [[0], [0], [1]]
        assert visible(process_of(service, "n")) == ["GPU-a"]
        assert visible(process_of(service, "o")) == ["GPU-b"]
        shown = {uuid: (gpu["id"], gpu["assigned_models"]) for uuid, gpu in gpus(service).items()}
        assert shown == {"GPU-a": (0, ["m", "n"]), "GPU-b": (1, ["o"])}


@needs_compiler
def test_ten_cold_models_at_once_are_all_served_and_no_gpu_is_overcommitted(machine: Machine):
    """The two GPUs hold four of them. The fake machine checks its own memory at every look."""
    names = [f"m{number}" for number in range(10)]
    machine.show(A, B)
    with machine.serving(models=dict.fromkeys(names, SMALL)) as service:
        with ThreadPoolExecutor(len(names)) as together:
            devices = set(together.map(lambda name: device_of(service, name), names))
        places = [decision["model"] for decision in decisions(service) if decision["outcome"] == "place"]
        assert len(service.servers()) <= 4
    assert devices == {"cuda:0", "cuda:1"}
    assert sorted(places) == names, "every model was loaded once"
    assert machine.most_at_once == 4


@needs_compiler
def test_a_gpu_filled_by_another_process_is_not_used(machine: Machine):
    machine.show(A, B)
    with machine.serving(models={"m": SMALL, "n": SMALL, "large": LARGE}) as service:
        assert device_of(service, "m") == "cuda:0"  # the next model would be placed there too
        full = replace(A, processes={os.getpid(): 400})
        machine.show(full, B)
        sees_used(service, GPU_a=947)
        assert device_of(service, "n") == "cuda:1"
        machine.show(full, replace(B, used_mib=500))
        sees_used(service, GPU_a=947, GPU_b=1047)
        error, retry_after = refusal(service, "large", 503, "insufficient_vram")
        free = {uuid: gpu["free_bytes"] for uuid, gpu in gpus(service).items()}
        assert {device["uuid"]: device["free_bytes"] for device in error["devices"]} == free
        assert free == {"GPU-a": 253 * MIB, "GPU-b": 153 * MIB}
        assert error["needed_bytes"] == error["devices"][0]["needed_bytes"] > 850 * MIB
        assert error["nearest"].startswith("cache_type_k") and error["nearest"] in error["message"]
        assert retry_after == "10"
        assert set(loaded(service)) == {"m", "n"}, "nobody was stopped in vain"


@needs_compiler
def test_a_model_that_exceeds_all_gpus_is_rejected_permanently(machine: Machine):
    machine.show(a_card("GPU-a", 700), a_card("GPU-b", 700))
    with machine.serving(models={"m": SMALL, "large": LARGE}) as service:
        assert device_of(service, "m") == "cuda:0"
        error, retry_after = refusal(service, "large", 422, "model_does_not_fit")
        assert {device["uuid"]: device["free_bytes"] for device in error["devices"]} == dict.fromkeys(
            ("GPU-a", "GPU-b"), 700 * MIB
        )
        assert (error["needed_bytes"] > 850 * MIB, retry_after) == (True, None)
        assert set(loaded(service)) == {"m"}


@needs_compiler
def test_decisions_are_listed_newest_first_with_their_reasons(machine: Machine):
    machine.show(a_card("GPU-a", 600))
    with machine.serving(models={"m": SMALL, "n": SMALL}) as service:
        assert (device_of(service, "m"), device_of(service, "n")) == ("cuda:0", "cuda:0")
        listed = [decision for decision in decisions(service) if decision["outcome"] != "wait"]
        assert [(decision["model"], decision["outcome"], decision["evict"]) for decision in listed] == [
            ("n", "place", []),
            ("n", "evict", ["m"]),
            ("m", "place", []),
        ]
        assert [decision["at"] for decision in listed] == sorted((decision["at"] for decision in listed), reverse=True)
        assert decisions(service, "?model=m") == listed[-1:]
        assert decisions(service, "?model=nobody") == []
        assert listed[0] == service.get("/v1/models/n").json()["decision"]
        assert listed[0]["placement"] == placement_of(service, "n")
    evict = listed[1]
    assert evict["reason"] == "fits on GPU 0 (NVIDIA GeForce RTX 4090) after evicting m"
    assert evict["considered"][0] == "one GPU, context 4096: needs 546 MiB, 0 of 1 have enough free"
    items_bytes = listed[0]["placement"]["devices"][0]["total_bytes"]
    assert items_bytes <= evict["needed_bytes"] <= 1.001 * items_bytes  # a margin of a part of the compute buffer
    assert evict["free_bytes"]["GPU-a"] <= 54 * MIB < listed[0]["free_bytes"]["GPU-a"] == 600 * MIB
    assert all(0 < decision["elapsed_ms"] < 1000 and 0 <= decision["gpus_age_seconds"] < 2 for decision in listed)


def test_decisions_are_for_admins_and_cpu_fallback_never_rejects_models_without_gpus(tmp_path: Path):
    admin, user = "b" * 48, "c" * 48
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "admin": key == admin}
        for name, key in (("admin", admin), ("user", user))
    ]
    with serving(tmp_path, KEYS=json.dumps(keys), GPU__CPU_FALLBACK="never") as service:

        def ask(key: str) -> requests.Response:
            return requests.get(f"{service.url}/decisions", headers={"x-api-key": key}, timeout=20)

        assert (ask(user).status_code, ask(user).json()["error"]["code"]) == (403, "not_allowed")
        assert service.get("/decisions").status_code == 401
        assert (ask(admin).status_code, ask(admin).json()) == (200, {"decisions": []})
        body = {"model": "demo", "messages": []}
        answer = service.post("/v1/chat/completions", body, headers={"x-api-key": user})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_gpu")
        assert "gpu.cpu_fallback is never" in answer.json()["error"]["message"]


@needs_compiler
def test_metrics_show_the_memory_a_loading_model_has_yet_to_allocate(machine: Machine):
    machine.show(A)
    machine.holds_back_at = 0.0
    with machine.serving(models={"m": SMALL}) as service:
        assert service.post("/models/load", {"model": "m"}).status_code == 200
        booked = loaded(service)["m"]["booked_bytes"]
        assert series(service, "llama_smart_proxy_server_memory_estimate_bytes") == {
            f'gpu="{device}",model="m"': size for device, size in booked.items()
        }
        assert (set(booked), claimed_bytes(service, "GPU-a")) == ({"GPU-a", "cpu"}, booked["GPU-a"])
        machine.holds_back_at = 0.75
        wait_for(lambda: 0 < claimed_bytes(service, "GPU-a") < 0.26 * booked["GPU-a"], 20)
        machine.holds_back_at = None
        wait_for(lambda: claimed_bytes(service, "GPU-a") == 0, 20)
        assert device_of(service, "m") == "cuda:0"
        wait_for(lambda: claimed_bytes(service, "GPU-a") == 0, 20)


@needs_compiler
def test_a_reload_applies_gpu_limits_to_later_loads_and_checks_pinned_models_by_them(machine: Machine):
    machine.show(a_card("GPU-a"))
    models: dict[str, dict[str, Any]] = {"m": SMALL, "later": SMALL}
    with machine.serving(models=models) as service:
        assert device_of(service, "m") == "cuda:0"
        process = process_of(service, "m")
        machine.config({**models, "m": {**SMALL, "pin": True}}, {"reserve": "1150MiB"})
        answer = service.post("/admin/reload", {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_configuration")
        assert "m" in answer.json()["error"]["errors"][0]
        machine.config(models, {"reserve": "1150MiB"})
        assert service.post("/admin/reload", {}).json()["changed"] == ["gpu.reserve"]
        refusal(service, "later", 422, "model_does_not_fit")
        machine.config({**models, "m": {**SMALL, "pin": True}}, {})
        assert service.post("/admin/reload", {}).json()["models"]["updated"] == ["m"]
        assert device_of(service, "later") == "cuda:0"
        assert process_of(service, "m").pid == process.pid


@needs_compiler
def test_an_automatic_context_gives_way_to_other_processes_and_all_reports_say_so(machine: Machine):
    """With 8k the model needs 591 MiB, with 16k 680, with 32k 857. A quarter of the longest wait is a second."""
    automatic = {"DEFAULTS__CTX_SIZE": "auto", "SCHEDULING__MAX_WAIT_SECONDS": "4"}
    machine.show(a_card("GPU-a", used_mib=560))
    with machine.serving(models={"m": {}}, **automatic) as service:
        assert device_of(service, "m") == "cuda:0"
        shortened = {"ctx_size": 8192, "full_ctx_size": 32768}
        assert option(process_of(service, "m"), "--ctx-size") == "8192"
        model = service.get("/v1/models/m").json()
        for report in (model["status"], model["placement"], model["decision"]["placement"], service.servers()[0]):
            assert {key: report[key] for key in shortened} == shortened
        why = "context 8,192 instead of 32,768: other processes hold 560 MiB of GPU 0 (NVIDIA GeForce RTX 4090)"
        assert model["decision"]["reason"].endswith(why)
        assert "instead of 32k" in service.get("/").text
        machine.show(a_card("GPU-a"))
        service.post("/models/unload", {"model": "m"})
        sees_used(service, GPU_a=0)
        assert device_of(service, "m") == "cuda:0"
        status = service.get("/v1/models/m").json()["status"]
        assert (status["value"], status["ctx_size"]) == ("loaded", 32768)
