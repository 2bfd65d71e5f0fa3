"""What `doctor` gathers: calls that may hang, and files of the machine."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from app.use_cases.diagnosis.gpus import DeviceFile
from workers.diagnosis.bounded import BoundedCall, CallFailed
from workers.diagnosis.gpus import device_files, is_in_container, is_nouveau_loaded
from workers.diagnosis.machine import read_directory, state_owner, tasks_limit
from workers.diagnosis.service import read_unit

UNIT = "[Unit]\nDescription=x\n[Service]\nExecStart=/opt/here serve\nDynamicUser=yes\n"
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # pytest-xdist has threads


@forks
@pytest.mark.integration
def test_a_call_returns_its_value_and_the_warnings_that_it_logged():
    def call() -> dict[str, int]:
        logging.getLogger("workers.any").warning("low on %s", "memory")
        print("libraries print", os.getpid())
        return {"a": 1}

    assert BoundedCall(call, 20).result() == ({"a": 1}, ("low on memory",))


@forks
@pytest.mark.integration
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: time.sleep(60), "no answer within 0.2 s"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the check was ended by SIGKILL"),
        (lambda: [][0], "IndexError: list index out of range"),
    ],
)
def test_a_call_that_hangs_crashes_or_raises_is_a_failure_and_not_waited_for(call, reason: str):
    seconds = 0.2 if "0.2" in reason else 20
    began = time.monotonic()
    with pytest.raises(CallFailed, match=reason.replace(".", r"\.")):
        BoundedCall(call, seconds).result()
    assert time.monotonic() - began < 10


def test_a_directory_is_judged_by_the_nearest_one_that_exists(tmp_path: Path):
    found = read_directory("state", tmp_path / "a" / "b", 7, "XDG_STATE_HOME")
    assert (found.path, found.is_writable, found.kept_bytes) == (f"{tmp_path}/a/b", True, 7)
    assert found.free_bytes and not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert not read_directory("state", tmp_path / "file" / "b", 0, "").is_writable


def test_the_service_that_has_the_state_directory_is_known_by_its_lock(tmp_path: Path):
    assert state_owner(tmp_path) == ""
    with open(tmp_path / "lock", "w") as lock:
        lock.write("77\n")
        lock.flush()
        assert state_owner(tmp_path) == ""
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_owner(tmp_path) == "77"


def test_the_least_limit_of_the_control_groups_counts(tmp_path: Path):
    group = tmp_path / "sys/fs/cgroup/system.slice/x.service"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/x.service\n")
    (group / "pids.max").write_text("max\n")
    (group.parent / "pids.max").write_text("99\n")
    assert tasks_limit(tmp_path) == 99


def test_device_files_containers_and_nouveau_are_recognised(tmp_path: Path):
    assert (device_files(tmp_path), is_in_container(tmp_path), is_nouveau_loaded(tmp_path)) == ([], False, False)
    for name in ("dev", "sys/module/nouveau", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dev/nvidia0").touch(0o600)
    (tmp_path / "run/.containerenv").touch()
    assert device_files(tmp_path) == [DeviceFile("/dev/nvidia0", True, "")]
    assert is_in_container(tmp_path) and is_nouveau_loaded(tmp_path)


def test_a_unit_differs_if_more_than_its_program_and_user_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    assert read_unit(UNIT, tmp_path).path == ""
    path = tmp_path / "etc/systemd/system/llama-smart-proxy.service"
    path.parent.mkdir(parents=True)
    path.write_text(UNIT.replace("/opt/here", "/bin/sh").replace("DynamicUser=yes", "User=ann"))
    unit = read_unit(UNIT, tmp_path)
    assert (unit.path, unit.differs, unit.program, unit.has_program) == (str(path), False, "/bin/sh", True)
    path.write_text(UNIT.replace("Description=x", "Description=y"))
    unit = read_unit(UNIT, tmp_path)
    assert (unit.differs, unit.has_program) == (True, False)
