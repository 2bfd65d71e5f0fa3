"""Starts services by forking a process that has imported their modules already.

Most of the CPU time of a start goes into imports, and the tests start some two hundred services. What runs after the
fork is what `python -P fixed_ram.py serve ...` runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import IO

MODULES = [
    *("tests.helpers.fixed_ram", "app.commands.cli", "workers.serve", "workers.gunicorn_worker.worker", "gguf"),
    *("workers.state_lock", "workers.diagnosis.machine", "gunicorn.glogging", "numpy.random"),  # imported by a start
    "tests.helpers.frozen_imports",
]
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_context: ForkServerContext | None = None


class PreloadedProcess:
    """A service's master process, with those methods of subprocess.Popen that tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        output, child_output = multiprocessing.Pipe(duplex=False)
        run = _forkserver().Process(target=_run, args=(tuple(arguments), dict(environment), child_output))
        run.start()
        child_output.close()
        assert run.pid is not None
        self.pid: int = run.pid
        self._process: ForkServerProcess = run
        self.stdout: IO[str] = os.fdopen(os.dup(output.fileno()), encoding="utf-8", errors="replace")
        output.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("serve", timeout or 0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _forkserver() -> ForkServerContext:
    """One fork server for each pytest process. It ends with that process."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(MODULES)
    return _context


def _run(arguments: Sequence[str], environment: Mapping[str, str], output: Connection) -> None:
    from app.commands import cli
    from tests.helpers.fixed_ram import fix_ram

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # one of them keeps the fork server alive
    os.environ.clear()
    os.environ.update(environment)
    _load_nvml(environment.get("LD_LIBRARY_PATH", ""))
    sys.argv = ["fixed_ram.py", *arguments]
    fix_ram()
    cli.main()


def _load_nvml(search_path: str) -> None:
    """The linker reads its search path when a program starts, but it takes a loaded library by its name at any time."""
    for folder in filter(None, search_path.split(":")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(os.path.join(folder, "libnvidia-ml.so.1"))
            return
