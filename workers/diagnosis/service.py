"""A running service, and the systemd unit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from app.use_cases.diagnosis.service import InstalledUnit, RunningService
from workers.gpu.driver_update import is_driver_replaced

TIMEOUT_SECONDS = 3.0
UNIT = "llama-smart-proxy.service"
_FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")


def running_service(url: str, health: Mapping[str, Any], pid: str) -> RunningService:
    """The service that answers so at `url`. `pid`: of the one that has the state directory; "" if none has."""
    engine, reasons = health.get("engine"), health.get("reasons")
    return RunningService(
        url,
        str(health.get("version", "")),
        bool(health.get("degraded")),
        tuple(map(str, reasons)) if isinstance(reasons, list) else None,
        str(engine.get("version", "")) if isinstance(engine, dict) else "",
        any(map(_has_old_driver, _processes(pid))),
    )


def _processes(pid: str) -> Iterator[int]:
    """The service's: NVML is mapped by gunicorn's worker."""
    if pid.isdecimal() and psutil.pid_exists(int(pid)):
        yield int(pid)
        yield from (child.pid for child in psutil.Process(int(pid)).children())


def _has_old_driver(pid: int) -> bool:
    return is_driver_replaced(Path(f"/proc/{pid}/maps"))


def read_unit(template: str, root: Path = Path("/")) -> InstalledUnit:
    """The installed unit, the system's or the user's. `template`: the unit of this version."""
    for folder in _FOLDERS:
        if (path := root / folder / UNIT).exists():
            return _unit(path, template, root)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if (path := config / "systemd/user" / UNIT).exists():
        return _unit(path, "", root)
    return InstalledUnit()


def _unit(path: Path, template: str, root: Path) -> InstalledUnit:
    """Of a user's unit only the program is compared: `template` is that of the system's."""
    text, is_of_user = path.read_text(errors="replace"), not template
    program = (re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE) or [""])[-1]
    environment = (re.findall(r"^EnvironmentFile=-?(\S+)", text, re.MULTILINE) or [""])[-1]
    return InstalledUnit(
        path=str(path),
        differs=not is_of_user and _directives(text) != _directives(template),
        program=program,
        has_program=os.access(program, os.X_OK),
        state=_active_state(is_of_user) if (root / "run/systemd/system").exists() else "",
        is_of_user=is_of_user,
        lingers=(root / "var/lib/systemd/linger" / user_name()).exists(),
        environment=environment,
    )


def _directives(text: str) -> list[str]:
    """Of a unit, without what `install-service` sets."""
    lines = [line.strip() for line in text.splitlines()]
    own = ("#", "ExecStart=", "User=", "Group=", "DynamicUser=")
    return [line for line in lines if line and not line.startswith(own)]


def _active_state(is_of_user: bool) -> str:
    if not (systemctl := shutil.which("systemctl")):
        return ""
    command = [systemctl, *(["--user"] if is_of_user else []), "is-active", UNIT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def user_name() -> str:
    return psutil.Process().username()
