"""Processes that are ours because their environment says so: what a child has started, wherever it has gone.

A wrapper script may run llama-server without exec, in a session of its own (`setsid`), or detached from itself: then
neither the process group nor the parent leads to it. A secret in the environment does: every child inherits it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Set
from pathlib import Path

import psutil

END_SECONDS = 2.0  # for the kernel to free the memory of what was killed
_POLL_SECONDS = 0.01


def marked_processes(variables: Set[bytes]) -> list[int]:
    """The pids of this user's processes that have one of these variables, as b"NAME=value", in their environment."""
    user = os.geteuid()
    return [pid for pid in psutil.pids() if _owner(pid) == user and _is_marked(pid, variables)]


def kill_marked(variables: Set[bytes]) -> list[int]:
    """Kill these processes, and what runs in their sessions; returns their pids once they have ended, END_SECONDS at
    most.

    A session that a process of ours leads, or whose leader has exited, is ours: also what has cleared its environment.
    Another one is not: someone may have copied the variable into a shell to query the engine by hand.
    """
    killed: dict[int, None] = {}
    deadline = time.monotonic() + END_SECONDS
    while (found := marked_processes(variables)) and time.monotonic() < deadline:  # again: they may fork meanwhile
        sessions = _our_sessions(found)
        killed |= dict.fromkeys(pid for pid in psutil.pids() if _kill_if_ours(pid, variables, sessions))
        time.sleep(_POLL_SECONDS)
    return list(killed)


def _our_sessions(marked: Iterable[int]) -> set[int]:
    """The sessions of these processes that one of them leads, or whose leader has exited."""
    pids = set(marked)
    sessions = {session for pid in pids if (session := _session(pid))}
    return {session for session in sessions if session in pids or not psutil.pid_exists(session)}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # it has exited
        return None


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _is_marked(pid: int, variables: Set[bytes]) -> bool:
    """False for a process that has exited, a zombie included, and for another user's."""
    try:
        return not variables.isdisjoint(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def _kill_if_ours(pid: int, variables: Set[bytes], sessions: Set[int]) -> bool:
    try:
        pidfd = os.pidfd_open(pid)  # first: from here on it cannot be another process
    except OSError:
        return False
    try:
        if _session(pid) not in sessions and not (_owner(pid) == os.geteuid() and _is_marked(pid, variables)):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:  # another user's, or it has exited
        return False
    finally:
        os.close(pidfd)
