"""Checks the unit file without a running systemd: its directives, its sandboxing, and the service under it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands.cli import main
from app.settings.sections.server import ServerSettings
from tests.helpers.service import serving

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "llama-smart-proxy.service"
EXAMPLES = UNIT.with_name("examples")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with an existing program, since systemd-analyze reports a missing one."""
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


@pytest.mark.parametrize("drop_ins", [[], ["cpus", "memory", "nvidia-devices"]])
def test_every_directive_is_known(unit: Path, drop_ins: list[str]):
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    for name in drop_ins:
        shutil.copy(EXAMPLES / f"{name}.conf", folder)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""  # an unknown directive only prints a line; the exit status stays 0


@pytest.mark.parametrize("options", [[], ["--user-service"]])
def test_an_installed_unit_has_nothing_that_systemd_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # of a user's service manager
    assert CliRunner().invoke(main, ["install-service", "--root", str(tmp_path), *options]).exit_code == 0
    (installed,) = tmp_path.rglob(UNIT.name)
    manager = ["--user"] if options else []
    command = ["systemd-analyze", *manager, "verify", installed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers and systemd-tmpfiles need root")
def test_systemd_creates_the_user_and_closes_the_configuration(tmp_path: Path):
    assert CliRunner().invoke(main, ["install-service", "--root", str(tmp_path)]).exit_code == 0
    for command in ("systemd-sysusers", "systemd-tmpfiles --create"):
        subprocess.run([*command.split(), f"--root={tmp_path}"], check=True, capture_output=True, timeout=60)
    passwd = (tmp_path / "etc/passwd").read_text()
    group = int(re.search(r"^llama-smart-proxy:x:\d+:(\d+):", passwd, flags=re.MULTILINE)[1])
    status = (tmp_path / "etc/llama-smart-proxy/config.yaml").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (group, 0o640)
    assert (tmp_path / "srv/llama-smart-proxy/models").is_dir()


def test_its_exposure_level_is_low(unit: Path):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) <= 2.5


def test_the_device_files_of_gpus_stay_open():
    """Allowing any device denies all others, and up to systemd 252 ProtectClock= allows one."""
    directives = re.findall(r"^(?:Device\w+|Private\w+|ProtectClock)=.*", UNIT.read_text(), flags=re.MULTILINE)
    assert directives == ["PrivateTmp=yes", "PrivateMounts=yes", "PrivateDevices=no"]


def test_every_example_is_tried():
    assert sorted(path.stem for path in EXAMPLES.iterdir()) == ["cpus", "memory", "nvidia-devices"]


def test_nothing_breaks_what_cuda_and_the_proxy_need():
    """CUDA compiles kernels, RAM is read from /proc/meminfo, models are in home directories."""
    set_names = re.findall(r"^(\w+)=", UNIT.read_text(), flags=re.MULTILINE)
    assert not {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork"} & set(set_names)
    assert "ProtectHome=read-only" in UNIT.read_text().splitlines()


def test_an_engine_out_of_memory_or_a_stuck_scheduler_restarts_only_what_it_must():
    lines = UNIT.read_text().splitlines()
    assert {"OOMPolicy=continue", "NotifyAccess=all", "Restart=on-failure"} <= set(lines)
    assert "WatchdogSec=60" in lines, "a start may take two probes of the engine, 20 s each"


def test_it_waits_for_the_whole_drain():
    server = ServerSettings()
    stop_timeout = int(re.search(r"^TimeoutStopSec=(\d+)", UNIT.read_text(), flags=re.MULTILINE)[1])
    assert stop_timeout > server.drain_seconds + server.stop_seconds + 10


def test_it_reports_ready_and_keeps_its_files_where_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = str(tmp_path / "notify")
    for name in ("state", "cache"):
        monkeypatch.setenv(f"{name.upper()}_DIRECTORY", str(tmp_path / name))
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(20)
        with serving(tmp_path / "home") as service:
            assert b"READY=1" in notified.recv(4096)
            assert notified.recv(4096) == b"WATCHDOG=1\nSTATUS=0 llama-servers, 0 requests running, 0 waiting"
            assert service.chat().status_code == 200
            assert os.listdir(tmp_path / "state" / "servers")
            assert (tmp_path / "cache" / "demo" / "demo.gguf").exists()
