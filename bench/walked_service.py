"""The service with call tracing: each call of a function in app/ or workers/ becomes a line in a file.

    python -m bench.walked_service CALLS serve ...

Each line has the thread's name, the function's file, and 1 if the previous call on that thread (ours or a library's)
was in another file, else 0, separated by tabs. Resuming a generator counts as a call, as in Python's profiler. Only the
worker is traced, not the arbiter or the llama-servers.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import FrameType

import app
import workers
from app.commands.cli import main

ROOT = Path(app.__file__).parents[1]
OURS = tuple(f"{folder}{os.sep}" for package in (app, workers) for folder in package.__path__)


def watch_the_worker(file: str) -> None:
    """Trace the calls of the arbiter's child, from before it starts any thread."""
    arbiter, calls = os.getpid(), os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    before = threading.local()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        source, last = frame.f_code.co_filename, getattr(before, "source", None)
        before.source = source
        if source.startswith(OURS):
            name = threading.current_thread().name
            os.write(calls, f"{name}\t{os.path.relpath(source, ROOT)}\t{int(source != last)}\n".encode())

    def begin() -> None:
        if os.getppid() == arbiter:  # not in children of the worker, which exec another program
            threading.setprofile(note)
            sys.setprofile(note)

    os.register_at_fork(after_in_child=begin)  # gunicorn's own hooks belong to gunicorn.conf.py


if __name__ == "__main__":
    watch_the_worker(sys.argv.pop(1))
    main()
