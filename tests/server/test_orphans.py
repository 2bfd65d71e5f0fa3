"""The sweep at startup kills orphaned llama-servers and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.server.orphans import PidRecords

pytestmark = pytest.mark.integration

# Records a child and exits without stopping it, like a killed worker.
OWNER = """
import subprocess, sys, pathlib
from workers.server.orphans import PidRecords
child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
PidRecords(pathlib.Path(sys.argv[1])).write(child.pid)
print(child.pid, flush=True)
if sys.argv[2:]: input()
"""


def test_a_child_whose_owner_died_is_killed(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", OWNER, str(tmp_path)], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    assert PidRecords(tmp_path).sweep() == [pid]
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_child_whose_owner_is_alive_is_not_killed(tmp_path: Path):
    command = [sys.executable, "-c", OWNER, str(tmp_path), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert PidRecords(tmp_path).sweep() == []
        assert psutil.pid_exists(pid)
        psutil.Process(pid).kill()
        owner.communicate("\n", timeout=10)


def test_a_reused_pid_is_not_killed(tmp_path: Path):
    with subprocess.Popen(["sleep", "60"]) as other:
        dead_owner = {"pid": 1, "started": "never", "boot": "another"}
        record = {"child": {"pid": other.pid, "started": "1", "boot": "another"}, "owner": dead_owner}
        (tmp_path / "1.json").write_text(json.dumps(record))
        assert PidRecords(tmp_path).sweep() == []
        assert other.poll() is None
        other.kill()


def test_a_broken_record_is_removed(tmp_path: Path):
    (tmp_path / "1.json").write_text("{")
    assert PidRecords(tmp_path).sweep() == []
    assert list(tmp_path.iterdir()) == []
