"""The machine: directories, the address to listen on, and limits of processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from app.use_cases.diagnosis.machine import Directory


def read_directory(purpose: str, path: Path, kept_bytes: int, variables: str) -> Directory:
    """The directory, or the nearest one above it that exists, in which it would be created."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    return Directory(purpose, str(path), is_writable, free, kept_bytes, variables)


def state_owner(folder: Path) -> str:
    """The pid of the service that has locked this state directory; "" if none has. Creates no file."""
    try:
        with open(folder / "lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(20).decode(errors="replace").strip() or "unknown"
    except OSError:
        return ""
    return ""


def why_not_listening(host: str, port: int) -> str:
    """Why the service could not listen there; "" if it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def owner_of(port: int) -> str:
    """The program that listens on this TCP port; "" if that is not known."""
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN:
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})" if each.pid else "another user's process"
    return ""


def open_files_limit() -> int | None:
    """The hard limit, to which the service raises its own."""
    return _limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def locked_memory_limit() -> int | None:
    return _limit(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])


def tasks_limit(root: Path = Path("/")) -> int | None:
    """Of processes and threads: the least of the user's and the control groups' limits. The user's is not root's."""
    user = _limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]) if os.geteuid() else None
    return min((each for each in (user, *_pids_max(root)) if each is not None), default=None)


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _pids_max(root: Path) -> Iterator[int]:
    """Of this process's control group (version 2) and those above it."""
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, IndexError):
        own = (root / "proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].strip().lstrip("/")
        for folder in (groups / own, *(groups / own).parents):
            if not folder.is_relative_to(groups):
                return
            with contextlib.suppress(OSError, ValueError):  # "max", and the root group has none
                yield int((folder / "pids.max").read_text())
