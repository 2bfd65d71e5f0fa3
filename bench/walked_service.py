"""The service with a witness: each call of a function of ours in its worker is a line in a file.

    python -m bench.walked_service CALLS serve ...

A line has the thread's name, the function's file, and whether the call before on that thread, a library's or ours, was
of another file (1) or not (0), with tabs between. A generator that goes on is a call, as Python's profiler has it. The
arbiter and the llama-servers write none.
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
    """Have the arbiter's child write down its calls, from before it starts a thread."""
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
        if os.getppid() == arbiter:  # a child of the worker is on its way to be another program
            threading.setprofile(note)
            sys.setprofile(note)

    os.register_at_fork(after_in_child=begin)  # gunicorn's own hooks are the product's


if __name__ == "__main__":
    watch_the_worker(sys.argv.pop(1))
    main()
