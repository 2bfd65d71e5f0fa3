"""bench/gpu: complete runs on a machine without a GPU."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu.card import Card, Shown
from bench.gpu.results import Results
from tests.helpers import fake_pynvml
from tests.helpers.builders import MIB
from workers.engine_builds.stopping import CannotContinue

pytestmark = pytest.mark.integration

RUN = Path(__file__).parents[2] / "bench" / "gpu" / "run"
SECONDS = 120.0  # some 6 for the quick rehearsal


def run_kit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(RUN), "--quick", *map(str, arguments)]
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)


def test_the_rehearsal_runs_and_a_second_run_measures_nothing(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    overheads = tmp_path / "overheads.json"
    first = run_kit(*arguments, "--date", "2026-01-02", "--overheads", overheads)
    assert first.returncode == 0, first.stderr
    assert "which says nothing about a GPU" in first.stdout
    folder = tmp_path / "r" / "cpu-rehearsal-quick-2026-01-02"
    said = json.loads((folder / "results.json").read_text())
    assert len(said["rows"]) == 4 and not said["summary"]["failed"]
    assert said["machine"]["kind"] == "cpu-rehearsal"
    assert (folder / "table.md").read_text().startswith("# Rehearsal on a CPU: no GPU was used\n")
    assert not overheads.exists(), "a rehearsal has no say in it"
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "models").iterdir()}
    second = run_kit(*arguments, "--date", "2026-01-02", "--overheads", overheads)
    assert second.returncode == 0
    assert "writing" not in second.stdout and "MiB, " not in second.stdout
    assert json.loads((folder / "results.json").read_text()) == said
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_a_run_with_a_fake_gpu_and_a_disguised_server(tmp_path: Path):
    """Covers, without CUDA, the command line, the log, NVML's figures and the table of overheads."""
    server = tmp_path / "llama-server"
    server.write_text(
        f'#!/bin/sh\nexec {sys.executable} -P {Path(__file__).parents[1] / "helpers" / "disguised_server.py"} "$@"\n'
    )
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "site").mkdir()
    shutil.copy(fake_pynvml.__file__, tmp_path / "site" / "pynvml.py")
    overheads = tmp_path / "overheads.json"
    arguments = ("--server", server, "--work", tmp_path / "w", "--results", tmp_path / "r", "--overheads", overheads)
    done = run_kit(*arguments, "--date", "2026-01-02", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "r" / "fake-gpu-16gb-quick-2026-01-02"
    said = json.loads((folder / "results.json").read_text())
    assert not said["summary"]["failed"], said["rows"]
    assert (said["machine"]["gpu"], said["machine"]["compute_capability"]) == ("Fake GPU 16GB", "9.0")
    for row in said["rows"]:
        assert row["shown_loaded"] == {"by": "process", "bytes": 700 * MIB, "card_grew_bytes": 700 * MIB}
        assert row["estimated"]["overhead"] > 0 and row["back_seconds"] is not None
        assert 0 < row["loaded"]["weights"] < 700 * MIB
    # The largest overhead is that of the smallest buffers, in whole MiB.
    least = min(sum(row["loaded"][item] for item in ("weights", "context", "compute")) for row in said["rows"])
    written = json.loads(overheads.read_text())["Fake GPU 16GB"]
    assert written["overhead_bytes"] == math.ceil((700 * MIB - least) / MIB) * MIB
    assert (written["driver"], written["measured"]) == ("580.1", "2026-01-02")


def test_nvml_that_names_no_process_leaves_what_the_card_grew_by(monkeypatch: pytest.MonkeyPatch):
    card = Card(fake_pynvml)
    # Not this machine's processes: another test may be running disguised servers.
    monkeypatch.setattr(fake_pynvml, "_pids", list)
    assert card.shown(1) == Shown(None, 300 * MIB)
    monkeypatch.setattr(fake_pynvml, "_pids", lambda: [7])
    assert card.shown(7) == Shown(700 * MIB, 1000 * MIB)
    assert card.shown(8) == Shown(None, 1000 * MIB)


def test_a_run_without_time_says_run_again(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    done = run_kit(*arguments, "--minutes", "0.00001")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (75, "out of time; run again to continue")


def test_what_cannot_be_done_is_one_line(tmp_path: Path):
    done = run_kit("--rehearse", "--server", "/nowhere", "--work", tmp_path, "--results", tmp_path / "r")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "does not exist" in done.stderr


def test_missing_packages_are_named_with_the_line_that_installs_them(tmp_path: Path):
    """As on a bare machine: a Python that has nothing but the standard library."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = run_kit("--rehearse", PYTHON=str(bare))
    assert done.returncode == 1
    assert "pip install numpy gguf platformdirs" in done.stderr and "Traceback" not in done.stderr


def test_the_kit_needs_few_packages():
    code = "import bench.gpu.steps, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=RUN.parents[2])
    heavy = {"flask", "pydantic", "requests", "click", "numpy", "psutil", "gunicorn", "yaml", "platformdirs", "pynvml"}
    assert not heavy & set(done.stdout.split())


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    command = [str(RUN), "--quick", *map(str, arguments)]
    env = {**os.environ, "PYTHON": sys.executable}
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
    heeds_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=heeds_ctrl_c) as kit:
        assert kit.stdout
        try:
            assert "measure:\n" in iter(kit.stdout.readline, ""), "it ended before it measured"
            servers = wait_for_children(kit.pid)
            kit.send_signal(signal.SIGINT)
            assert kit.wait(SECONDS) == 130
        finally:
            kit.kill()
    deadline = time.monotonic() + SECONDS  # the kernel's own guard may be what ends them, a moment after the kit
    while any(map(is_running, servers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_children(pid: int) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := [child.pid for child in psutil.Process(pid).children(recursive=True)]:
            return found
        time.sleep(0.01)
    raise AssertionError("it started nothing")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--minutes", each) for each in ("nan", "-1", "0", "inf")),
        ("--minutes-in-all", "0"),
        ("--jobs", "-3"),
        ("--cmake", "=x"),
        ("--date", "/../../x"),
        ("--date", ""),
    ],
)
def test_wrong_arguments_are_status_2(tmp_path: Path, arguments: tuple[str, str]):
    done = run_kit("--work", tmp_path / "w", "--results", tmp_path / "r", *arguments)
    assert done.returncode == 2 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"rows": 3}', '{"machine": {}, "rows": [1]}'])
def test_a_foreign_results_file_is_not_overwritten(tmp_path: Path, content: str):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(CannotContinue, match="move it away"):
        Results(tmp_path, {})
    assert file.read_text() == content


def test_a_server_that_fails_every_start_is_no_success(tmp_path: Path):
    dead = tmp_path / "llama-server"
    known = "--help) echo '--model FNAME  x'; echo '--port N  x'"
    dead.write_text(f"#!/bin/sh\ncase $1 in --version) echo version: 1;; {known};; *) exit 3;; esac\n")
    dead.chmod(0o755)
    done = run_kit(
        "--rehearse", "--server", dead, "--work", tmp_path / "w", "--results", tmp_path / "r", "--date", "2026-01-02"
    )
    assert done.returncode == 1 and "4 of 4 starts failed" in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "r").write_text("a file")
    done = run_kit(
        "--rehearse",
        "--server",
        "embedded",
        "--work",
        tmp_path / "w",
        "--results",
        tmp_path / "r",
        "--date",
        "2026-01-02",
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
