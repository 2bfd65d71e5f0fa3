"""The sweep at startup kills orphaned llama-servers and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.server.orphans import MARK_VARIABLE, PidRecords

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


# A service's process that records itself and starts a script which runs a command without exec; then the script is
# killed. Prints the pid of the command.
SERVICE = """
import os, pathlib, subprocess, sys
from workers.server.orphans import MARK_VARIABLE, PidRecords
records = PidRecords(pathlib.Path(sys.argv[1]))
records.begin()
environment = {**os.environ, MARK_VARIABLE: records.mark}
command = ["sh", "-c", "sleep 60 >/dev/null & echo $!; wait"]
script = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)
records.write(script.pid)
print(script.stdout.readline().strip(), flush=True)
script.kill()
script.wait()
if sys.argv[2:]: input()
"""


def started_by_a_wrapper(folder: Path) -> psutil.Process:
    command = [sys.executable, "-c", SERVICE, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return psutil.Process(int(done.stdout))


def test_what_a_wrapper_script_started_is_killed_although_the_script_has_ended(tmp_path: Path):
    """The sweep asked for the script only: the engine lived on for ever, and its record was deleted without a word."""
    engine = started_by_a_wrapper(tmp_path)
    assert engine.is_running()
    assert PidRecords(tmp_path).sweep() == [engine.pid]
    engine.wait(5)
    assert list(tmp_path.iterdir()) == []


def test_processes_of_another_instance_and_of_a_living_service_are_left_alone(tmp_path: Path):
    other = started_by_a_wrapper(tmp_path / "other")
    command = [sys.executable, "-c", SERVICE, str(tmp_path / "ours"), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        ours = psutil.Process(int(service.stdout.readline()))
        assert PidRecords(tmp_path / "ours").sweep() == []
        assert ours.is_running() and other.is_running()
        service.communicate("\n", timeout=10)
    assert PidRecords(tmp_path / "ours").sweep() == [ours.pid]
    assert other.is_running()
    other.kill()


def test_processes_of_another_container_are_left_alone(tmp_path: Path):
    """Its pids mean other processes here: an owner that seems to have exited may be running."""
    engine = started_by_a_wrapper(tmp_path)
    (file,) = tmp_path.glob("owner-*.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "owner": {**record["owner"], "namespace": "pid:[1]"}}))
    assert PidRecords(tmp_path).sweep() == []
    assert engine.is_running()
    engine.kill()


@pytest.mark.parametrize("mark", ["", "0", None, 5, "A" * 32])
def test_a_record_without_a_proper_mark_kills_nothing(tmp_path: Path, mark: object):
    environment = {"PATH": "/usr/bin:/bin", MARK_VARIABLE: str(mark or "")}
    with subprocess.Popen(["sleep", "60"], env=environment) as other:
        PidRecords(tmp_path).begin()
        (file,) = tmp_path.glob("owner-*.json")
        record = json.loads(file.read_text())
        file.write_text(json.dumps({"owner": {**record["owner"], "started": "1"}, "mark": mark}))
        assert PidRecords(tmp_path).sweep() == []
        assert other.poll() is None
        other.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_has_stopped_its_servers_leaves_no_record(tmp_path: Path):
    records = PidRecords(tmp_path)
    records.begin()
    records.end()
    assert list(tmp_path.iterdir()) == []


# A wrapper script that clears the environment of what it runs beside the engine.
SESSION = SERVICE.replace("sleep 60 >/dev/null &", "sleep 60 & env -i sleep 60 >/dev/null &")


def test_what_cleared_its_environment_ends_with_its_session(tmp_path: Path):
    command = [sys.executable, "-c", SESSION, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    unmarked = psutil.Process(int(done.stdout))
    assert unmarked.pid in PidRecords(tmp_path).sweep()
    unmarked.wait(5)


# A shell in a session of its own, as of a terminal, which runs a command that has the mark.
SHELL = f"env {MARK_VARIABLE}=$1 sleep 60 >/dev/null & echo $!; sleep 60"


def test_a_session_that_something_else_leads_is_not_killed(tmp_path: Path):
    service = [sys.executable, "-c", SERVICE, str(tmp_path)]
    done = subprocess.run(service, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    (file,) = tmp_path.glob("owner-*.json")
    command = ["sh", "-c", SHELL, "sh", json.loads(file.read_text())["mark"]]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        marked = int(shell.stdout.readline())
        killed = PidRecords(tmp_path).sweep()
        assert {int(done.stdout), marked} <= set(killed)
        assert shell.pid not in killed and shell.poll() is None
        os.killpg(shell.pid, signal.SIGKILL)
