"""A llama-server as a child process: in a process group of its own, tied to us by the kernel's parent-death signal.

Also from /proc: the loopback ports a child listens on, which proves that a port is our child's and nobody else's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

from app.use_cases.launch.launch import LaunchPlan


def popen(plan: LaunchPlan) -> subprocess.Popen[bytes]:
    """The child: own session, environment of the plan and nothing else, killed by the kernel when this thread ends.

    Its stdin is a pipe only we hold: an engine that watches it ends by itself when we are gone.
    """
    return subprocess.Popen(
        [*death_guard(), *plan.argv],
        env=dict(plan.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )


def signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exit_words(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"exit status {code}"


# Two lines in setpriv's place. A parent that died before the request was made is not the parent any more.
_TRAMPOLINE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


def death_guard() -> tuple[str, ...]:
    """The argv prefix that ties a child's life to its spawning thread: setpriv, or two lines of Python in its place."""
    if setpriv := _setpriv():
        return (setpriv, "--pdeathsig", "KILL", "--")
    return (sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()))


@functools.cache
def _setpriv() -> str | None:
    """The setpriv to use; busybox has one that knows no --pdeathsig."""
    path = shutil.which("setpriv")
    if path and subprocess.run([path, "--pdeathsig", "KILL", "true"], capture_output=True).returncode == 0:
        return path
    return None


LISTEN = "0A"
LOOPBACK = "0100007F"  # 127.0.0.1, little-endian


def listening_ports(pid: int) -> set[int]:
    """Ports on 127.0.0.1 whose listening socket belongs to `pid` or one of its descendants (a wrapper script's)."""
    inodes = {inode for member in _family(pid) for inode in _socket_inodes(member)}
    return {port for port, inode in _listening() if inode in inodes}


def _family(pid: int) -> list[int]:
    import psutil  # here: bench/gpu starts servers without it

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return [pid]


def _socket_inodes(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # gone, or not ours to look at
        return
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _listening() -> Iterator[tuple[int, str]]:
    with open("/proc/net/tcp") as table:
        next(table)
        for row in table:
            fields = row.split()
            address, port = fields[1].split(":")
            if fields[3] == LISTEN and address == LOOPBACK:
                yield int(port, 16), fields[9]
