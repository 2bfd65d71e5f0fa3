"""RAM as control groups limit it, and what a process holds of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.builders import GIB, MIB
from workers.gpu import ram


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control group of this process: 8 GiB at most, of which 3 GiB are used, 1 GiB by the page cache."""
    group = tmp_path / "system.slice" / "llama-smart-proxy.service"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/system.slice/llama-smart-proxy.service\n")
    monkeypatch.setattr(ram, "OWN_CGROUP", own)
    monkeypatch.setattr(ram, "CGROUPS", tmp_path)
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.high").write_text("max\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon {2 * GIB}\ninactive_file {GIB}\n")
    return group


def sizes() -> tuple[float, float]:
    memory = ram.read_memory({})
    return memory.total_bytes / GIB, memory.available_bytes / GIB


def test_memory_max_limits_the_ram_and_the_page_cache_counts_as_available(group: Path):
    assert sizes() == (8, 6)


def test_memory_high_limits_the_ram_too(group: Path):
    """Above it the kernel slows the whole service down."""
    (group / "memory.high").write_text(f"{6 * GIB}\n")
    assert sizes() == (6, 4)
    (group / "memory.max").write_text("max\n")
    assert sizes() == (6, 4)


def test_a_limit_of_a_slice_counts_for_what_is_in_it(group: Path):
    for name in ("memory.max", "memory.high", "memory.current"):
        (group.parent / name).write_text(f"{4 * GIB}\n")
    assert sizes() == (4, 0)


def test_without_limits_the_machine_counts(group: Path):
    (group / "memory.max").write_text("max\n")
    assert sizes() == (16, 16)  # tests/helpers/fixed_ram.py


@pytest.mark.integration
def test_what_a_script_started_counts_as_held_by_it():
    program = "import sys; kept = b'x' * (64 << 20); print(flush=True); sys.stdin.read()"
    command = ["sh", "-c", f'{sys.executable} -c "{program}"; exit $?']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as script:
        assert script.stdout is not None
        script.stdout.readline()
        assert 64 * MIB < ram.process_bytes(script.pid) < 256 * MIB
        (engine,) = psutil.Process(script.pid).children()
        assert ram.process_bytes(script.pid) > ram.process_bytes(engine.pid) > 64 * MIB
        script.communicate(timeout=20)
    assert ram.process_bytes(script.pid) == 0
