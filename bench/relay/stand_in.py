"""Compiles the fake llama-server and the stream generator, both in C, and starts the former.

Two cores are used: the measured proxy runs on the first, everything else on the last.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
MEASURED_CORE, OTHER_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Programs:
    """The compiled programs. The fake server's file is called llama-server, as the service expects."""

    upstream: Path
    streams: Path


def compiled(folder: Path) -> Programs:
    """Compile both programs into `folder`. Raises CalledProcessError; the compiler's messages are on stderr."""
    made = Programs(folder / "llama-server", folder / "streams")
    for program, sources in ((made.upstream, ("upstream.c", "answers.c")), (made.streams, ("streams.c", "hearing.c"))):
        assert COMPILER is not None, "no C compiler (cc, gcc)"
        files = [Path(__file__).with_name(source) for source in sources]
        subprocess.run([COMPILER, "-O2", "-Wall", "-o", program, *files], check=True)
    return made


def environment() -> dict[str, str]:
    """The fake server's environment: its core, whichever process starts it."""
    return {"STAND_IN_CORE": str(OTHER_CORE)}


@contextlib.contextmanager
def upstream(programs: Programs) -> Iterator[int]:
    """Run a fake server that no proxy manages; yields its port."""
    command = [programs.upstream, "--port", "0", "--alias", "stand-in-0"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield int(re.findall(r"port: (\d+)", process.stderr.readline())[0])
        finally:
            process.kill()


def pin(pids: Iterable[int], core: int) -> None:
    """Pin processes to a core, with all their present and future threads."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
