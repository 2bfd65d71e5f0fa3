"""The last safeguard against orphans: the pids of our llama-servers are on disk, and a start kills those left over.

A process is identified by pid, start time and boot id. It is killed only if its recorded owner has exited.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import psutil

log = logging.getLogger(__name__)


class PidRecords:
    """One small file for each running llama-server, in the state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, pid: int) -> None:
        """Record a child of this process. If the disk is full, only this safeguard is lost."""
        try:
            record = {"child": _identity(pid), "owner": _identity(os.getpid())}
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f".{pid}.partial"
            partial.write_text(json.dumps(record))
            partial.replace(self._folder / f"{pid}.json")
        except OSError as error:
            log.warning("pid %d not recorded: %s", pid, error)

    def remove(self, pid: int) -> None:
        _unlink(self._folder / f"{pid}.json")

    def sweep(self) -> list[int]:
        """Kill the recorded processes that outlived their owner; returns their pids."""
        killed = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = json.loads(file.read_text())
                child, owner = record["child"], record["owner"]
                if _is_alive(owner):
                    continue
                if _is_alive(child):
                    _kill(child["pid"])
                    killed.append(child["pid"])
            except Exception as error:  # no content of the file may prevent the start
                log.warning("pid record %s is unreadable; removing it: %r", file.name, error)
            _unlink(file)
        return killed


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("pid record %s could not be removed: %s", file.name, error)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _identity(pid: int) -> dict[str, object]:
    return {"pid": pid, "started": _start_time(pid), "boot": _boot_id()}  # raises OSError


def _start_time(pid: int) -> str | None:
    """Clock ticks between boot and the process's start (field 22 of /proc/PID/stat); None if it has exited."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _is_alive(identity: dict[str, object]) -> bool:
    pid = identity["pid"]
    if not isinstance(pid, int) or pid <= 1:
        raise ValueError(f"no pid: {pid!r}")
    if identity["boot"] != _boot_id() or _start_time(pid) != identity["started"]:
        return False
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(pid: int) -> None:
    log.warning("killing llama-server pid=%d: its owner has exited", pid)
    try:
        os.killpg(pid, signal.SIGKILL)  # every child leads its own session, so its pid is its process group
    except OSError:
        os.kill(pid, signal.SIGKILL)
