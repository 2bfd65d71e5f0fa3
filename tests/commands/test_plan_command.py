"""`plan` on the command line: the contract's file in, the contract's answer out."""

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


def said(*args: str) -> Result:
    """On a machine that shows no GPU."""
    return CliRunner().invoke(main, ["plan", *args], env={"LLAMA_SMART_PROXY_CONFIG": None, "CUDA_VISIBLE_DEVICES": ""})


def answer(model: str, folder: Path, world: object, *args: str, status: int = 0) -> dict:
    file = folder / "gpus.json"
    file.write_text(json.dumps(world))
    result = said(model, "--gpus", str(file), *args, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.output)


def test_a_place_is_said_with_what_it_takes(model: str, tmp_path: Path):
    told = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 20), gpu("GPU-b", 12)]})
    assert set(told) == {"outcome", "placement", "evict", "reason", "needed_bytes", "elapsed_ms"}
    (device,) = told["placement"]["devices"]
    assert (told["outcome"], device["uuid"], device["layers"]) == ("place", "GPU-b", 9)
    items = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes")
    assert device["total_bytes"] == sum(device[item] for item in items) <= told["needed_bytes"]
    assert told["placement"]["ctx_size"] == 32768, "the longest automatic context that fits"


def test_a_split_says_its_shares(model: str, tmp_path: Path):
    told = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 4), gpu("GPU-b", 3.5)]}, "-c", "4096")
    assert told["outcome"] == "place"
    assert [device["uuid"] for device in told["placement"]["devices"]] == ["GPU-a", "GPU-b"]
    assert told["placement"]["tensor_split"] == [device["layers"] for device in told["placement"]["devices"]]
    assert sum(told["placement"]["tensor_split"]) == 9


def test_who_has_to_leave_is_named_and_who_is_busy_is_waited_for(model: str, tmp_path: Path):
    server = {"model": "old", "state": "ready", "busy": False, "idle_seconds": 900, "bytes": {"GPU-a": 10 * GIB}}
    world = {"gpus": [gpu("GPU-a", 1)], "servers": [server]}
    told = answer(model, tmp_path, world)
    assert (told["outcome"], told["evict"]) == ("evict", ["old"])
    server["busy"] = True
    assert answer(model, tmp_path, world)["outcome"] == "wait"


def test_no_place_is_status_1_with_the_numbers_and_what_would_fit(model: str, tmp_path: Path):
    told = answer(model, tmp_path, {"gpus": [gpu("GPU-a", 5.5, 6)]}, "-c", "32768", status=1)
    assert (told["outcome"], told["placement"]) == ("refuse", None)
    assert told["needed_bytes"] > 5 * GIB and told["nearest"]


def on_hardware(environment: dict[str, str], *args: str) -> dict:
    """In a process of its own: a library once loaded stays."""
    command = [sys.executable, "-m", "app.commands.cli", "plan", *args, "--json"]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_compiler
@pytest.mark.integration
def test_without_a_file_it_is_about_the_gpus_of_this_machine(model: str, tmp_path: Path):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-small", total_mib=4096), Card("GPU-large", total_mib=24564, bus="00000000:02:00.0"))
    told = on_hardware(hardware.environment, model, "-c", "4096")
    assert [device["uuid"] for device in told["placement"]["devices"]] == ["GPU-large"]


def test_people_read_which_gpu_it_is_and_what_it_takes_of_ram(model: str, tmp_path: Path):
    file = tmp_path / "gpus.json"
    file.write_text(json.dumps({"gpus": [gpu("GPU-a", 20)]}))
    lines = said(model, "--gpus", str(file), "-c", "4096").output.splitlines()
    assert re.fullmatch(r"  GPU 0 \(.+, GPU-a\)  9 layers, [\d,]+ MiB", lines[1]), lines
    assert re.fullmatch(r"  RAM  \d+ MiB", lines[2]), lines


def test_without_a_gpu_it_is_about_the_cpu(model: str):
    assert "CPU" in said(model, "-c", "512").output.upper()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "JSON"),
        ('{"gpus": [{"uuid": "a"}]}', "gpus.0.total_bytes"),
        ('{"gpus": [], "cards": []}', "cards"),
        ('{"gpus": [], "servers": [{"model": "m", "bytes": {"x": 1}}]}', "not one of the GPUs"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_and_exit_2(model: str, tmp_path: Path, content: str, word: str):
    file = tmp_path / "gpus.json"
    file.write_text(content)
    result = said(model, "--gpus", str(file))
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1 and word in result.output


def test_a_missing_file_is_one_line_and_exit_2(model: str, tmp_path: Path):
    result = said(model, "--gpus", str(tmp_path / "none.json"))
    assert result.exit_code == 2 and "No such file" in result.output


def test_a_server_that_has_ended_holds_nothing_and_one_of_an_unknown_state_is_an_error(model: str, tmp_path: Path):
    server = {"model": "x", "state": "stopped", "bytes": {"GPU-a": 10 * GIB}}
    world = {"gpus": [gpu("GPU-a", 1)], "servers": [server]}
    assert answer(model, tmp_path, world, status=1)["outcome"] == "refuse"
    for wrong in (
        {"gpus": [gpu("GPU-a", 1)], "servers": [server | {"state": "loaded"}]},
        {"gpus": [gpu("cpu", 20)]},
        {"gpus": [gpu("", 20)]},
    ):
        file = tmp_path / "wrong.json"
        file.write_text(json.dumps(wrong))
        assert said(model, "--gpus", str(file)).exit_code == 2


def test_one_gpu_and_several_are_a_contradiction(model: str):
    assert said(model, "--split-mode", "none", "--devices", "2").exit_code == 2


def test_without_a_gpu_the_settings_may_keep_it_from_the_cpu(model: str, tmp_path: Path):
    config = tmp_path / "never.yaml"
    config.write_text("gpu: {cpu_fallback: never}")
    told = answer(model, tmp_path, {"gpus": []}, "--config", str(config), status=1)
    assert (told["outcome"], told["reason"]) == ("refuse", "there is no GPU; gpu.cpu_fallback is never")
    assert answer(model, tmp_path, {"gpus": []}, "--config", str(config), "-ngl", "0")["outcome"] == "place"


@needs_compiler
@pytest.mark.integration
def test_gpus_that_are_not_to_be_used_are_not_looked_at(model: str, tmp_path: Path):
    (tmp_path / "off.yaml").write_text("gpu: {enabled: false}")
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-large", total_mib=24564))
    told = on_hardware(hardware.environment, model, "-c", "512", "--config", str(tmp_path / "off.yaml"))
    assert told["placement"]["devices"][0]["uuid"] == "cpu"
