"""A llama-server as a child process: in a process group of its own, and killed by the kernel when its parent dies."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys

from app.use_cases.launch.command_line import LaunchPlan
from workers.server.open_files import inherited_soft_limit
from workers.server.process_tree import descendants

READ_BYTES = 64 * 1024
EXIT_COMMAND = b"cmd_router_to_child:exit\n"

# When the machine runs out of memory, the kernel is to kill an engine, not the service, which would take all of them
# along. 500 counts like half of the machine's RAM. Set before the engine runs, because what a wrapper script starts
# inherits it; raising it needs no privilege (proc(5)).
_FIRST_OOM_VICTIM = "echo 500 >/proc/self/oom_score_adj"

# Replaces setpriv. A parent that died before prctl(PR_SET_PDEATHSIG, SIGKILL) is no longer the parent.
_TRAMPOLINE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


class ChildProcess:
    """One process, from spawn to exit code. `kill` may be called from any thread, the rest by the spawning thread."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Spawns it. Raises OSError and ValueError."""
        self._process = popen(plan)
        assert self._process.stdout is not None
        self.log_fd = self._process.stdout.fileno()
        os.set_blocking(self.log_fd, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_reaped(self) -> bool:
        return self._process.returncode is not None

    def read_log(self) -> bytes | None:
        """What it has logged since the last call; None if nothing, b"" at the end of the pipe."""
        try:
            return os.read(self.log_fd, READ_BYTES)
        except BlockingIOError:
            return None

    def terminate(self) -> None:
        """SIGTERM to its group, and the command with which llama.cpp's router ends a child.

        At SIGTERM a child closes its HTTP server, then waits for that command without a timeout (llama.cpp b11434:
        server_child::setup in server-models.cpp, whose thread server.cpp joins at its end).
        """
        signal_group(self.pid, signal.SIGTERM)
        for pid in self._elsewhere():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(EXIT_COMMAND)

    def _elsewhere(self) -> list[int]:
        """Its descendants outside its group: a script may have run the engine with setsid."""
        try:
            return [pid for pid in descendants(self.pid) if os.getpgid(pid) != self.pid]
        except ProcessLookupError:
            return []

    def kill(self) -> None:
        """SIGKILL to its group, unless it is reaped."""
        if not self.is_reaped:
            signal_group(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end and close its pipes; the exit code."""
        code = self._process.wait()
        for pipe in (self._process.stdout, self._process.stdin):
            if pipe is not None:
                pipe.close()
        return code


def popen(plan: LaunchPlan) -> subprocess.Popen[bytes]:
    """The child in its own session, with the plan's environment only, killed by the kernel when this thread ends.

    Only this process holds the other end of its stdin: an engine that watches stdin exits by itself when we die.
    """
    return subprocess.Popen(
        [*parent_death_argv(), *_prepared_argv(), *plan.argv],
        env=dict(plan.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )


def _prepared_argv() -> tuple[str, ...]:
    """The argv prefix that sets what a child inherits from no process of ours."""
    soft = inherited_soft_limit()
    limit = "unlimited" if soft == resource.RLIM_INFINITY else soft
    script = f'{{ {_FIRST_OOM_VICTIM}; ulimit -Sn {limit}; }} 2>/dev/null; unset PWD; exec "$@"'
    return ("/bin/sh", "-c", script, "sh")


def parent_death_argv() -> tuple[str, ...]:
    """The argv prefix that makes the kernel kill the child when the thread that spawned it ends."""
    if setpriv := _setpriv():
        return (setpriv, "--pdeathsig", "KILL", "--")
    return (sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()))


@functools.cache
def _setpriv() -> str | None:
    """The path of a setpriv that has --pdeathsig; busybox's does not."""
    path = shutil.which("setpriv")
    if path and subprocess.run([path, "--pdeathsig", "KILL", "true"], capture_output=True).returncode == 0:
        return path
    return None


def signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def describe_exit(code: int | None) -> str:
    """An exit code in words: "ended by SIGKILL", "exit status 1"."""
    if code is not None and code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"exit status {code}"
