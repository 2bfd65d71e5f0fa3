"""`plan` on the command line: reads the documented file format and prints the documented report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from tests.helpers.gpu_play import eight_layers_file
from tests.helpers.stand_in_nvml import Card, StandIn, needs_compiler

GIB = 1024**3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(eight_layers_file(tmp_path_factory.mktemp("plan") / "m.gguf"))


def gpu(uuid: str, free: float, total: float = 24, **more: object) -> dict[str, object]:
    return {"uuid": uuid, "name": "card", "total_bytes": int(total * GIB), "free_bytes": int(free * GIB)} | more


def run_plan(*args: str) -> Result:
    """Runs `plan` as on a machine without GPUs."""
    return CliRunner().invoke(main, ["plan", *args], env={"CUDA_VISIBLE_DEVICES": ""})


def answer(model: str, folder: Path, world: object, *args: str, status: int = 0) -> dict:
    file = folder / "gpus.json"
    file.write_text(json.dumps(world))
    result = run_plan(model, "--gpus", str(file), *args, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.output)


def test_a_placement_is_reported_with_its_memory(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 20), gpu("GPU-b", 12)]})
    assert set(report) == {"outcome", "placement", "evict", "reason", "needed_bytes", "gpus", "ram", "elapsed_ms"}
    (device,) = report["placement"]["devices"]
    assert (report["outcome"], device["uuid"], device["layers"]) == ("place", "GPU-b", 9)
    items = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes")
    assert device["total_bytes"] == sum(device[item] for item in items) <= report["needed_bytes"]
    assert report["placement"]["ctx_size"] == 65536, "it takes less than half of the GPU"


def test_a_pattern_of_tensors_that_matches_none_is_noted(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 20)]}, "-ot", "ffn_up_expz=CPU")
    assert report["notes"] == ["tensor_overrides: no tensor of the model matches 'ffn_up_expz'"]


def test_what_others_hold_shortens_an_automatic_context_and_plan_says_so(model: str, tmp_path: Path):
    """But not what servers hold that would be evicted."""
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 5, 8)]})
    assert (report["placement"]["ctx_size"], report["placement"]["full_ctx_size"]) == (16384, 32768)
    why = "context 16,384 instead of 32,768: other processes hold 3,072 MiB of GPU 0 (card)"
    assert report["reason"] == f"fits on GPU 0 (card); {why}"
    idle = {"model": "old", "idle_seconds": 90, "bytes": {"GPU-a": 3 * GIB}}
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 5, 8)], "servers": [idle]})
    assert (report["outcome"], report["placement"]["ctx_size"]) == ("evict", 32768)


def test_the_gpu_of_a_display_is_used_last(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 20), gpu("GPU-b", 12, drives_display=True)]})
    assert report["placement"]["devices"][0]["uuid"] == "GPU-a"
    assert report["reason"].endswith("; used last: GPU 1 (card, drives a display)")


def test_a_split_is_reported_with_its_shares(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 4), gpu("GPU-b", 3.5)]}, "-c", "4096")
    assert report["outcome"] == "place"
    assert [device["uuid"] for device in report["placement"]["devices"]] == ["GPU-a", "GPU-b"]
    assert report["placement"]["tensor_split"] == [device["layers"] for device in report["placement"]["devices"]]
    assert sum(report["placement"]["tensor_split"]) == 9


def test_an_idle_server_is_evicted_and_a_busy_one_is_waited_for(model: str, tmp_path: Path):
    server = {"model": "old", "state": "ready", "busy": False, "idle_seconds": 900, "bytes": {"GPU-a": 10 * GIB}}
    world = {"gpus": [gpu("GPU-a", 1)], "servers": [server]}
    report = answer(model, tmp_path, world)
    assert (report["outcome"], report["evict"]) == ("evict", ["old"])
    server["busy"] = True
    assert answer(model, tmp_path, world)["outcome"] == "wait"


def test_a_refusal_is_exit_1_with_the_numbers_and_a_suggestion(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 5.4, 6)]}, "-c", "32768", status=1)
    assert (report["outcome"], report["placement"]) == ("refuse", None)
    assert report["needed_bytes"] > 4.9 * GIB and report["nearest"]


def on_hardware(environment: dict[str, str], *args: str, exit_code: int = 0) -> dict:
    """Runs `plan` in a subprocess, because a loaded library cannot be unloaded."""
    command = [sys.executable, "-m", "app.commands.cli", "plan", *args, "--json"]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == exit_code, result.stderr
    return json.loads(result.stdout)


@needs_compiler
@pytest.mark.integration
def test_without_a_file_the_gpus_of_this_machine_are_used(model: str, tmp_path: Path):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-small", total_mib=4096), Card("GPU-large", total_mib=24564, bus="00000000:02:00.0"))
    report = on_hardware(hardware.environment, model, "-c", "4096")
    assert [device["uuid"] for device in report["placement"]["devices"]] == ["GPU-large"]


@needs_compiler
@pytest.mark.integration
def test_a_sparks_memory_is_the_machines_and_called_unified(model: str, tmp_path: Path):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-s", "NVIDIA GB10", capability="12.1", flags=("no_memory",)))
    report = on_hardware(hardware.environment, model, "-c", "512")
    (gpu,) = report["gpus"]
    assert (gpu["uuid"], gpu["unified"], gpu["reserve_bytes"] >= 2 * 1024**3) == ("GPU-s", True, True)


@needs_compiler
@pytest.mark.integration
def test_a_gpu_whose_memory_cannot_be_read_is_no_reason_to_plan_for_the_cpu(model: str, tmp_path: Path):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-a", flags=("no_memory",)))
    report = on_hardware(hardware.environment, model, "-c", "512", exit_code=1)
    assert (report["outcome"], report["placement"]) == ("refuse", None)
    assert "memory cannot be read: Not Supported; to run it on the CPU" in report["reason"]


@needs_compiler
@pytest.mark.integration
def test_a_name_of_a_gpu_that_is_missing_is_not_taken_for_a_wrong_one(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-a"), Card("GPU-b", bus="00000000:02:00.0", flags=("no_memory",)))
    monkeypatch.setenv("LLAMA_SMART_PROXY_GPU__ORDER", '["GPU-b", "GPU-c"]')
    command = [sys.executable, "-m", "app.commands.cli", "plan", model, "-c", "512"]
    environment = os.environ | hardware.environment
    notes = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stderr.splitlines()
    assert [line.split(";")[0] for line in notes[1:]] == ["note: gpu.order: 'GPU-c' matches no GPU"]
    assert "GPU-b): memory cannot be read" in notes[0]


def test_the_text_names_the_gpu_and_the_ram_needed(model: str, tmp_path: Path):
    file = tmp_path / "gpus.json"
    file.write_text(json.dumps({"gpus": [gpu("GPU-a", 20)]}))
    lines = run_plan(model, "--gpus", str(file), "-c", "4096").output.splitlines()
    assert re.fullmatch(r"  GPU 0 \(.+, GPU-a\)  9 layers, [\d,]+ MiB", lines[1]), lines
    assert re.fullmatch(r"  RAM  \d+ MiB", lines[2]), lines


def test_the_reserve_of_each_gpu_is_shown_and_a_name_that_no_gpu_has_is_a_note(model: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text('gpu: {reserve: {GPU-a: 2GiB, "2": 1GiB}}')
    file = tmp_path / "gpus.json"
    file.write_text(json.dumps({"gpus": [gpu("GPU-a", 20), gpu("GPU-b", 20)]}))
    arguments = (model, "--gpus", str(file), "--config", str(tmp_path / "config.yaml"))
    result = run_plan(*arguments)
    assert "- GPU 0 (card): 18,432 MiB usable, 2,048 MiB reserved" in result.output.splitlines()
    assert "- GPU 1 (card): 19,968 MiB usable, 512 MiB reserved" in result.output.splitlines()
    assert result.stderr == "note: gpu.reserve: '2' matches no GPU; there are: 0 (card, GPU-a), 1 (card, GPU-b)\n"
    report = json.loads(run_plan(*arguments, "--json").stdout)
    assert [gpu["reserve_bytes"] for gpu in report["gpus"]] == [2 * GIB, GIB // 2]


@pytest.mark.parametrize(
    ("ram", "status"),
    [
        ({}, 0),
        ({"ram_free_bytes": 64 * GIB}, 0),
        ({"ram_total_bytes": 64 * GIB}, 0),
        ({"ram_total_bytes": 64 * GIB, "ram_free_bytes": GIB}, 1),
        ({"ram_total_bytes": GIB}, 1),
        ({"ram_free_bytes": GIB}, 1),
    ],
)
def test_another_machines_ram_is_the_files_or_assumed_to_be_enough(
    model: str, tmp_path: Path, ram: dict[str, int], status: int, monkeypatch: pytest.MonkeyPatch
):
    """Not this machine's: the file usually describes another one."""
    monkeypatch.setattr("workers.gpu.ram.read_memory", lambda pids: pytest.fail("this machine's RAM was read"))
    report = answer(model, tmp_path, {"gpus": [], **ram}, "-c", "4096", status=status)
    assert (report["outcome"] == "place") == (status == 0)
    free = ram.get("ram_free_bytes", ram.get("ram_total_bytes"))
    assert report["ram"] == {"total_bytes": ram.get("ram_total_bytes"), "free_bytes": free}
    text = run_plan(model, "--gpus", str(tmp_path / "gpus.json"), "-c", "4096").output
    assert ("- RAM: assumed to be enough; the file gives none" in text) == (not ram)


def test_ram_that_could_never_be_free_is_permanently_short(model: str, tmp_path: Path):
    report = answer(model, tmp_path, {"gpus": [], "ram_total_bytes": GIB, "ram_free_bytes": GIB // 2}, status=1)
    assert "usable at most: 1,024 MiB" in report["reason"]


SPARK = gpu("GPU-a", 100, 120, unified=True)
UNIFIED_RESERVE = 12 * GIB  # 10 % of RAM


def test_a_gpu_with_unified_memory_is_one_pool_with_ram(model: str, tmp_path: Path):
    """A model on it, or in RAM, takes of the same bytes, less the reserve for the system."""
    world = {"gpus": [SPARK], "ram_total_bytes": 120 * GIB, "ram_free_bytes": 90 * GIB}
    report = answer(model, tmp_path, world, "-c", "4096")
    assert report["placement"]["devices"][0]["uuid"] == "GPU-a"
    (shown,) = report["gpus"]
    assert (shown["unified"], shown["reserve_bytes"]) == (True, UNIFIED_RESERVE)
    assert shown["usable_bytes"] == report["ram"]["free_bytes"] == 90 * GIB - UNIFIED_RESERVE
    assert report["ram"]["total_bytes"] == 120 * GIB - UNIFIED_RESERVE


def test_servers_on_unified_memory_hold_ram_and_are_evicted_for_it(model: str, tmp_path: Path):
    server = {"model": "old", "idle_seconds": 900, "bytes": {"GPU-a": 80 * GIB}}
    world = {"gpus": [SPARK | {"free_bytes": 14 * GIB}], "servers": [server]}
    report = answer(model, tmp_path, world, "-c", "4096")
    assert (report["outcome"], report["evict"]) == ("evict", ["old"])
    assert report["gpus"][0]["usable_bytes"] == 2 * GIB
    waiting = world | {"servers": [server | {"state": "stopping"}]}
    assert answer(model, tmp_path, waiting, "-c", "4096")["outcome"] == "wait"


def test_without_a_gpu_the_cpu_is_used(model: str):
    assert "CPU" in run_plan(model, "-c", "512").output.upper()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "JSON"),
        ('{"gpus": [{"uuid": "a"}]}', "gpus.0.total_bytes"),
        ('{"gpus": [], "cards": []}', "cards"),
        ('{"gpus": [], "ram_total_bytes": 1, "ram_free_bytes": 2}', "more than ram_total_bytes"),
        ('{"gpus": [], "servers": [{"model": "m", "bytes": {"x": 1}}]}', "not one of the GPUs"),
    ],
)
def test_an_invalid_file_is_one_line_and_exit_2(model: str, tmp_path: Path, content: str, word: str):
    file = tmp_path / "gpus.json"
    file.write_text(content)
    result = run_plan(model, "--gpus", str(file))
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1 and word in result.output


def test_a_missing_file_is_exit_2(model: str, tmp_path: Path):
    result = run_plan(model, "--gpus", str(tmp_path / "none.json"))
    assert result.exit_code == 2 and "No such file" in result.output


def test_a_stopped_server_uses_no_memory_and_an_invalid_server_or_gpu_is_an_error(model: str, tmp_path: Path):
    server = {"model": "x", "state": "stopped", "bytes": {"GPU-a": 10 * GIB}}
    world = {"gpus": [gpu("GPU-a", 1)], "servers": [server]}
    assert answer(model, tmp_path, world, status=1)["outcome"] == "refuse"
    for invalid in (
        {"gpus": [gpu("GPU-a", 1)], "servers": [server | {"state": "loaded"}]},
        {"gpus": [gpu("cpu", 20)]},
        {"gpus": [gpu("", 20)]},
    ):
        file = tmp_path / "wrong.json"
        file.write_text(json.dumps(invalid))
        assert run_plan(model, "--gpus", str(file)).exit_code == 2


def test_split_mode_none_with_several_devices_is_an_error(model: str):
    assert run_plan(model, "--split-mode", "none", "--devices", "2").exit_code == 2


@pytest.mark.parametrize(
    "args", [("-mg", "1"), ("-dev", "CUDA0"), ("-ot", "exps=CUDA0"), ("--lora", "/missing.gguf"), ("--foo",)]
)
def test_what_plan_decides_or_cannot_read_is_exit_2(model: str, args: tuple[str, ...]):
    assert run_plan(model, *args).exit_code == 2


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_a_virtual_name_is_no_model(model: str, tmp_path: Path, command: str):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"models": {"a": {"path": model}}, "any_of": {"fast": ["a", "b"]}}))
    environment = {"LLAMA_SMART_PROXY_CONFIG": None}  # --config sets it, and it must not reach later tests
    done = CliRunner().invoke(main, [command, "Fast", "--config", str(config)], env=environment)
    assert (done.exit_code, done.stderr) == (2, "Fast stands for a, b (any_of); name one of them\n")


def test_without_a_gpu_the_settings_may_forbid_the_cpu(model: str, tmp_path: Path):
    config = tmp_path / "never.yaml"
    config.write_text("gpu: {cpu_fallback: never}")
    report = answer(model, tmp_path, {"gpus": []}, "--config", str(config), status=1)
    assert (report["outcome"], report["reason"]) == ("refuse", "there is no GPU; gpu.cpu_fallback is never")
    assert answer(model, tmp_path, {"gpus": []}, "--config", str(config), "-ngl", "0")["outcome"] == "place"


@needs_compiler
@pytest.mark.integration
def test_disabled_gpus_are_ignored(model: str, tmp_path: Path):
    (tmp_path / "off.yaml").write_text("gpu: {enabled: false}")
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-large", total_mib=24564))
    report = on_hardware(hardware.environment, model, "-c", "512", "--config", str(tmp_path / "off.yaml"))
    assert report["placement"]["devices"][0]["uuid"] == "cpu"
