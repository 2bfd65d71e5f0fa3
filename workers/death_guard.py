"""A child that cannot outlive us: the kernel kills it when the thread that spawned it ends."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

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
