"""Selection of the engine, and the probe of its version, options and devices."""

import importlib.metadata
import os
import sys
import time
from pathlib import Path

import pytest

from app.entities.launch import EngineFacts, EngineKind
from tests.helpers.fake_llama_server import install_fake
from workers.engine import probe_process
from workers.engine.binary import cuda_problem, devices_in_list, find_engine, flags_in_help, probe_devices
from workers.engine.probe_process import EngineNotFound, engine_environment

NOWHERE = "/nonexistent"

RECENT_HELP = """\
ggml_cuda_init: found 1 CUDA devices:
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
                                        (env: LLAMA_ARG_CTX_SIZE)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer, see --parallel and -np
-sm,   --split-mode {none,layer,row}    how to split the model across multiple GPUs, one of:
                                        - none: use one GPU only
                                        -x is not an option
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers (default: -1), or --fit
--spec-draft-device, -devd, --device-draft <dev1,dev2,..>
                                        comma-separated list of devices
--poll-batch <0|1>                      use polling to wait for work
"""


def program(folder: Path, text: str, name: str = "llama-server") -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_options_are_parsed_and_descriptions_are_not():
    expected = (
        "-h --help --usage --version -c --ctx-size -kvu --kv-unified -no-kvu --no-kv-unified -sm --split-mode "
        "-ngl --gpu-layers --n-gpu-layers --spec-draft-device -devd --device-draft --poll-batch"
    )
    flags, switches = flags_in_help(RECENT_HELP)
    assert flags == set(expected.split())
    assert {"--usage", "--version", "--kv-unified", "-no-kvu"} <= switches
    assert not {"--ctx-size", "--split-mode", "--gpu-layers"} & switches


def test_a_configured_binary_is_used_and_probed(tmp_path):
    path = install_fake(tmp_path)
    engine = find_engine(str(path), NOWHERE)
    assert (engine.kind, engine.command, engine.version) == (EngineKind.BINARY, (str(path),), "3091 (fake)")
    # The exit code of its --help, 1, is ignored. Indented options are found; those of newer builds are absent.
    assert {"-m", "--port", "-np", "--no-mmap"} <= engine.flags
    assert not {"--kv-unified", "-kvu", "--log-jsonl", "-fit"} & engine.flags


def test_llama_server_on_path_is_preferred_to_the_embedded_engine(tmp_path):
    path = install_fake(tmp_path)
    assert find_engine("auto", f"{NOWHERE}:{tmp_path}").command == (str(path),)


def test_the_embedded_engine_is_the_last_choice():
    engine = find_engine("auto", NOWHERE)
    assert engine == find_engine("embedded")
    assert (engine.kind, engine.command[:2]) == (EngineKind.EMBEDDED, (sys.executable, "-P"))
    assert engine.identity.startswith("xllamacpp 20")
    assert {"-m", "--model", "--port", "-kvu", "--no-kv-unified", "-fa", "--tensor-split"} <= engine.flags


def test_embedded_selects_the_embedded_engine_whatever_is_on_path(tmp_path, monkeypatch):
    install_fake(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_engine("embedded").kind is EngineKind.EMBEDDED


@pytest.mark.parametrize(("mode", "reason"), [(None, "does not exist"), (0o644, "is not executable")])
def test_a_configured_binary_that_cannot_be_run_is_an_error_even_if_others_exist(tmp_path, mode, reason):
    install_fake(tmp_path / "other")
    path = tmp_path / "llama-server"
    if mode is not None:
        program(tmp_path, "").chmod(mode)
    with pytest.raises(EngineNotFound, match=f"{path}.*{reason}.*Next:"):
        find_engine(str(path), str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "echo 'libcuda.so.1: cannot open shared object file'; kill -ILL $$",
            "was killed by SIGILL: libcuda.so.1",
        ),
        ("exit 0", "printed nothing"),
        ("echo hello", "not a llama-server.*hello"),
    ],
)
def test_the_error_for_a_broken_binary_gives_the_cause(tmp_path, text, reason):
    path = program(tmp_path, text)
    with pytest.raises(EngineNotFound, match=reason):
        find_engine(str(path))


def test_the_error_for_a_binary_of_another_architecture_gives_the_cause(tmp_path):
    path = tmp_path / "llama-server"
    path.write_bytes(b"\x7fELF for something else")
    path.chmod(0o755)
    with pytest.raises(EngineNotFound, match=r"is not a llama-server: .*not found"):
        find_engine(str(path))


@pytest.mark.parametrize("text", ["echo waiting; sleep 60", "setsid sleep 4 & echo gone", "yes"])
def test_a_binary_that_hangs_or_prints_endlessly_is_killed(tmp_path, monkeypatch, text):
    """The second exits at once, but a child outside its process group keeps the pipe open."""
    monkeypatch.setattr(probe_process, "_TIMEOUT_SECONDS", 0.3)
    path = program(tmp_path, text)
    began = time.monotonic()
    with pytest.raises(EngineNotFound):
        find_engine(str(path))
    assert time.monotonic() - began < 12


def test_a_broken_binary_on_path_is_skipped_with_a_warning(tmp_path, caplog):
    program(tmp_path, "exit 1")
    assert find_engine("auto", f"{tmp_path}:/bin").kind is EngineKind.EMBEDDED
    assert "printed nothing" in caplog.text


def test_without_any_engine_the_error_lists_what_was_tried_and_the_next_step(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EngineNotFound, match=r"not on PATH.*not installed.*Next:.*engine\.binary.*pip install"):
        find_engine("auto", NOWHERE)


def test_an_engine_is_probed_once_until_its_file_changes(tmp_path):
    text = f"echo probed >> {tmp_path}/times; echo 'version: 1 (a)'; echo '-m,    --model F'; echo '--port PORT'"
    path = program(tmp_path, text)
    first = find_engine(str(path))
    assert find_engine(str(path)) == first
    assert (tmp_path / "times").read_text().count("probed") == 2  # --version and --help

    program(tmp_path, text.replace("1 (a)", "22 (b)"))
    second = find_engine(str(path))
    assert (first.version, second.version) == ("1 (a)", "22 (b)")
    assert first.identity != second.identity


def test_the_environment_is_built_not_inherited(monkeypatch):
    for name, value in {"LLAMA_ARG_TOOLS": "all", "CUDA_HOME": "/c", "NVIDIA_VISIBLE_DEVICES": "all"}.items():
        monkeypatch.setenv(name, value)
    environment = engine_environment({"LLAMA_API_KEY": "key"})
    assert environment["PATH"] == os.environ["PATH"]
    assert (environment["CUDA_HOME"], environment["NVIDIA_VISIBLE_DEVICES"]) == ("/c", "all")
    assert environment["LLAMA_API_KEY"] == "key"
    assert "LLAMA_ARG_TOOLS" not in environment


# --- devices -----------------------------------------------------------------------------


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
    assert devices_in_list(text) == ("CUDA0", "CUDA1", "Vulkan0", "RPC0[10.0.0.1:50052]")
    assert devices_in_list("Available devices:\n  (none)\n") == ()
    with pytest.raises(ValueError, match=r"printed no list: CUDA0: a \(1 MiB"):
        devices_in_list("  CUDA0: a (1 MiB, 1 MiB free)")


@pytest.mark.parametrize(
    ("devices", "named"),
    [("CUDA0,CUDA1", None), ("Vulkan0,CUDA0", None), ("", "lists no GPU"), ("Vulkan0,ROCm0", "only Vulkan0, ROCm0")],
)
def test_an_engine_without_cuda_is_recognized_by_its_devices(tmp_path: Path, devices: str, named: str | None):
    engine = find_engine(str(install_fake(tmp_path, FAKE_DEVICES=devices)))
    assert probe_devices(engine) == tuple(devices.split(",") if devices else ())
    problem = cuda_problem(engine)
    assert bool(problem) == bool(named)
    if named:
        assert problem.startswith("the engine (3091 (fake)) has no CUDA: ") and named in problem


def test_the_embedded_engine_of_the_cpu_wheel_has_no_cuda():
    assert "has no CUDA: its --list-devices lists no GPU; install a CUDA build" in cuda_problem(find_engine("embedded"))


def test_an_engine_without_list_devices_is_not_probed_and_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    engine = find_engine(str(install_fake(tmp_path)))
    assert (probe_devices(engine), cuda_problem(engine), caplog.text) == (None, "", "")


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
    assert (probe_devices(engine), cuda_problem(engine)) == (None, "")
    assert caplog.records[0].levelname == "WARNING" and message in caplog.text


def test_devices_are_probed_each_time_in_the_environment_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLAMA_ARG_DEVICE", "none")
    engine = a_scripted(tmp_path, 'echo "Available devices:"; echo "  $DEVICE$LLAMA_ARG_DEVICE: a (1 MiB, 1 MiB free)"')
    assert probe_devices(engine, {"DEVICE": "CUDA0"}) == ("CUDA0",)
    assert probe_devices(engine, {"DEVICE": "CUDA1"}) == ("CUDA1",)
