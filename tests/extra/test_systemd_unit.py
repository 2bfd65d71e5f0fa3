"""Checks the unit file without a running systemd: its directives, its sandboxing, and the service under it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings.schema import ServerSettings
from tests.helpers.service import serving

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "llama-smart-proxy.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with an existing program, since systemd-analyze reports a missing one."""
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def test_every_directive_is_known(unit: Path):
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""  # an unknown directive only prints a line; the exit status stays 0


def test_its_exposure_level_is_low(unit: Path):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) < 3.0


def test_the_device_files_of_gpus_stay_open():
    """Allowing any device denies all others, and up to systemd 252 ProtectClock= allows one."""
    directives = re.findall(r"^(?:Device\w+|Private\w+|ProtectClock)=.*", UNIT.read_text(), flags=re.MULTILINE)
    assert directives == ["PrivateTmp=yes", "PrivateDevices=no"]


def test_it_waits_for_the_whole_drain():
    server = ServerSettings()
    stop_timeout = int(re.search(r"^TimeoutStopSec=(\d+)", UNIT.read_text(), flags=re.MULTILINE)[1])
    assert stop_timeout > server.drain_seconds + server.stop_seconds + 10


def test_it_reports_ready_and_keeps_its_files_where_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = str(tmp_path / "notify")
    for name in ("state", "cache"):
        monkeypatch.setenv(f"{name.upper()}_DIRECTORY", str(tmp_path / name))
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(20)
        with serving(tmp_path / "home") as service:
            assert b"READY=1" in notified.recv(4096)
            assert service.chat().status_code == 200
            assert os.listdir(tmp_path / "state" / "servers")
            assert (tmp_path / "cache" / "demo" / "demo.gguf").exists()
