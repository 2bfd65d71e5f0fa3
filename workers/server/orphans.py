"""The last safeguard against orphans: what belongs to us is recorded on disk, and a start kills what was left over.

A process is ours if its pid, start time and boot id are recorded, or if its environment has the mark of a recorded
service, a random number: an engine that was started by a wrapper script outlives the script. The rest of its session is
ours, too. It is killed only if its owner, the service's process, has exited. Nothing else is touched: no process of
that name, no reused pid, and nothing of another container, where pids mean other processes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import signal
from pathlib import Path
from typing import Any

import psutil

from workers.server.marked_processes import kill_marked

log = logging.getLogger(__name__)

MARK_VARIABLE = "LLAMA_PROXY_MARK"  # without the prefix of our settings, which an engine may read too
MARK_BYTES = 16


class PidRecords:
    """Small files in the state directory: one for this service, and one for each running llama-server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mark = secrets.token_hex(MARK_BYTES)  # the value of MARK_VARIABLE in every child's environment

    def begin(self) -> None:
        """Record this process as the owner of what has its mark. Call it after the fork, before the first child."""
        self._write(f"owner-{os.getpid()}", {"mark": self.mark})

    def write(self, pid: int) -> None:
        """Record a child of this process."""
        self._write(str(pid), {"child": _identity(pid)})

    def remove(self, pid: int) -> None:
        """The child was reaped."""
        _unlink(self._folder / f"{pid}.json")

    def end(self) -> None:
        """Every child was reaped."""
        _unlink(self._folder / f"owner-{os.getpid()}.json")

    def sweep(self) -> list[int]:
        """Kill the processes that outlived their owner; returns their pids."""
        killed, marks = list[int](), set[str]()
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = json.loads(file.read_text())
                if _is_alive(record["owner"]):
                    continue
                if "mark" in record:
                    marks.add(_checked_mark(record))
                elif _is_alive(record["child"]):
                    _kill(record["child"]["pid"])
                    killed.append(record["child"]["pid"])
            except Exception as error:  # no content of the file may prevent the start
                log.warning("pid record %s is unreadable; removing it: %r", file.name, error)
            _unlink(file)
        return [*killed, *kill_marked({_variable(mark) for mark in marks if mark})]

    def kill_all(self) -> None:
        """Kill everything that this service's children have started, and they themselves."""
        kill_marked({_variable(self.mark)})

    def _write(self, name: str, record: dict[str, object]) -> None:
        """If the disk is full, only this safeguard is lost."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f".{name}.partial"
            partial.write_text(json.dumps({"owner": _identity(os.getpid()), **record}))
            partial.replace(self._folder / f"{name}.json")
        except OSError as error:
            log.warning("pid %s not recorded: %s", name, error)


def _checked_mark(record: dict[str, Any]) -> str:
    """Its mark, or "" if the owner was in another container: that one may still run. Raises ValueError."""
    mark, namespace = record["mark"], record["owner"]["namespace"]
    if not isinstance(mark, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * MARK_BYTES}}}", mark):
        raise ValueError("no mark")
    return mark if namespace == _pid_namespace() else ""


def _variable(mark: str) -> bytes:
    return f"{MARK_VARIABLE}={mark}".encode()


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("pid record %s could not be removed: %s", file.name, error)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _identity(pid: int) -> dict[str, object]:
    """Raises OSError."""
    return {"pid": pid, "started": _start_time(pid), "boot": _boot_id(), "namespace": _pid_namespace()}


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
