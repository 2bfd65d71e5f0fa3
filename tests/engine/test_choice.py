"""Which engine `engine.binary: auto` means where some were installed with `engine install`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.entities.engines import Backend, InstalledEngine, InstructionSet
from app.entities.gpu import Gpu
from app.entities.launch import EngineFacts, EngineKind
from tests.engine.test_binary import program
from tests.helpers.fake_llama_server import install_fake
from workers.engine.binary import find_engine
from workers.engine.gpu_probe import probe_gpus
from workers.engine.installed_engines import described, engines_folder
from workers.engine.probe_process import EngineNotFound

pytestmark = pytest.mark.integration

CUDA, NO_GPU = "CUDA0", ""


def installed(cache: Path, name: str, lists: str = CUDA, architectures: tuple[str, ...] = ("8.9",)) -> str:
    """The path of an installed engine: "cuda-11549". `lists`: the devices that it lists."""
    backend, _, version = name.partition("-")
    path = install_fake(engines_folder(cache) / name / "bin", FAKE_DEVICES=lists)
    set_ = InstructionSet.NATIVE
    engine = InstalledEngine(name, version, Backend(backend), architectures, set_, "x.tar.gz", 3, str(path))
    (path.parent.parent / "engine.json").write_text(json.dumps(described(engine)))
    return str(path)


def on_path(folder: Path, **settings: object) -> str:
    return str(install_fake(folder / "path", **settings))


def found(folder: Path, env: dict[str, str] | None = None) -> EngineFacts:
    return find_engine("auto", str(folder / "path"), folder, env or {})


def choose(cache: Path, name: str) -> None:
    engines_folder(cache).mkdir(exist_ok=True)
    (engines_folder(cache) / "in-use").write_text(name)


def test_llama_server_on_path_keeps_precedence_where_it_can_use_the_gpus(tmp_path):
    installed(tmp_path, "cuda-11549")
    assert found(tmp_path).kind is EngineKind.BINARY
    path = on_path(tmp_path, FAKE_DEVICES=CUDA)
    assert found(tmp_path).command == (path,)


def test_an_installed_engine_that_can_use_the_gpus_comes_before_one_on_path_that_cannot(tmp_path):
    on_path(tmp_path, FAKE_DEVICES=NO_GPU)
    installed(tmp_path, "cuda-11600", lists=NO_GPU)
    engine = installed(tmp_path, "cuda-11549")
    assert found(tmp_path).command == (engine,)


def test_where_no_engine_can_use_gpus_the_order_decides(tmp_path):
    engine = installed(tmp_path, "cuda-11549", lists=NO_GPU)
    assert found(tmp_path).command == (engine,), "before the embedded one"
    path = on_path(tmp_path, FAKE_DEVICES=NO_GPU)
    assert found(tmp_path).command == (path,)


def test_an_engine_whose_cuda_fails_was_built_for_gpus(tmp_path):
    """At boot the driver may not be ready yet."""
    path = on_path(tmp_path, FAKE_CARDS="", FAKE_CUDA_INIT="no CUDA-capable device is detected")
    installed(tmp_path, "cuda-11549")
    assert found(tmp_path).command == (path,)


@pytest.mark.parametrize(("device", "is_used"), [("NVIDIA GeForce RTX 3090:24576", True), ("llvmpipe:16000", False)])
def test_vulkan_counts_where_it_lists_an_nvidia_gpu(tmp_path, device, is_used):
    path = on_path(tmp_path, FAKE_VULKAN=device)
    engine = installed(tmp_path, "cuda-11549")
    assert found(tmp_path).command == ((path if is_used else engine),)


def test_an_engine_that_cannot_be_asked_keeps_its_precedence(tmp_path):
    path = on_path(tmp_path)
    installed(tmp_path, "cuda-11549")
    assert found(tmp_path).command == (path,)


def test_no_engine_is_asked_for_devices_unless_one_was_installed_for_gpus(tmp_path):
    (tmp_path / "path").mkdir()
    program(tmp_path / "path", f"echo $1 >>{tmp_path}/asked; echo '--model F, --port P, --list-devices'")
    installed(tmp_path, "cpu-11549")
    assert found(tmp_path).command[0].startswith(str(tmp_path / "path"))
    assert (tmp_path / "asked").read_text().split() == ["--version", "--help"]


def test_the_environment_of_the_settings_counts_for_what_an_engine_can_use(tmp_path):
    path = on_path(tmp_path, FAKE_CARDS="GPU-a")
    engine = installed(tmp_path, "cuda-11549")
    program(
        tmp_path / "path", 'echo "Available devices:"; [ -z "$FOUND" ] || echo "  CUDA0: NVIDIA (8 MiB, 8 MiB free)"'
    )
    with open(path, "a") as file:
        file.write("echo '--model F, --port P, --list-devices'\n")
    assert found(tmp_path).command == (engine,)
    assert found(tmp_path, {"FOUND": "1"}).command == (path,)


def test_an_installed_engine_that_does_not_work_is_skipped_with_a_warning(tmp_path, caplog):
    broken = installed(tmp_path, "cuda-11549")
    Path(broken).write_text("#!/bin/sh\necho nonsense\n")
    assert found(tmp_path).kind is EngineKind.EMBEDDED
    assert f"engine skipped: {broken} is not a llama-server" in caplog.text


def test_engine_use_pins_one_whatever_can_use_the_gpus(tmp_path):
    on_path(tmp_path, FAKE_DEVICES=CUDA)
    engine = installed(tmp_path, "cpu-11549", lists=NO_GPU)
    choose(tmp_path, "cpu-11549")
    assert found(tmp_path).command == (engine,)
    assert find_engine("embedded", cache=tmp_path).kind is EngineKind.EMBEDDED, "the configuration names another"


def test_a_pinned_engine_that_is_gone_or_broken_is_an_error_that_names_the_way_out(tmp_path):
    on_path(tmp_path)
    choose(tmp_path, "cuda-11549")
    with pytest.raises(EngineNotFound, match=r"engine cuda-11549 was chosen .*not installed. Next: .* engine use auto"):
        found(tmp_path)
    Path(installed(tmp_path, "cuda-11549")).write_text("#!/bin/sh\n")
    with pytest.raises(EngineNotFound, match=r"cuda-11549 was chosen .*printed nothing.* engine use auto"):
        found(tmp_path)


def test_a_gpu_that_an_installed_engine_has_no_code_for_is_missing_with_the_command_that_helps(tmp_path):
    old, new = (Gpu(f"GPU-{name}", at, name, compute_capability=(at + 8, 9 - 9 * at)) for at, name in enumerate("ab"))
    engine = find_engine(installed(tmp_path, "cuda-11549", lists="CUDA0,CUDA1"))
    assert engine.architectures == ("8.9",)
    probe = probe_gpus(engine, {}, (old, new), lambda: None)
    assert (list(probe.unusable), probe.problem) == ([new.uuid], "")
    assert "built for compute capability 8.9 alone: llama-smart-proxy engine install --cuda" in probe.unusable[new.uuid]
    alone = probe_gpus(engine, {}, (new,), lambda: None)
    assert (alone.unusable, alone.problem.partition(". Next: ")[2]) == ({}, "llama-smart-proxy engine install --cuda")
    assert probe_gpus(engine, {}, (old,), lambda: None).is_fine
