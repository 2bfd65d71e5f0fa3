"""The stand-in for llama-server and the generator of streams, both C: compiled here, and the first one started.

The machine is used as two cores: what is measured has core 0, everything around it core 1.
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
    """What was compiled. The stand-in is called llama-server, which is what it takes itself for."""

    upstream: Path
    streams: Path


def compiled(folder: Path) -> Programs:
    """Both programs, in `folder`. Raises CalledProcessError, with the compiler's words on stderr."""
    made = Programs(folder / "llama-server", folder / "streams")
    for program, sources in ((made.upstream, ("upstream.c", "answers.c")), (made.streams, ("streams.c", "hearing.c"))):
        assert COMPILER is not None, "no C compiler (cc, gcc)"
        files = [Path(__file__).with_name(source) for source in sources]
        subprocess.run([COMPILER, "-O2", "-Wall", "-o", program, *files], check=True)
    return made


def environment() -> dict[str, str]:
    """What the stand-in is told by its environment: which core it is on, whoever starts it."""
    return {"STAND_IN_CORE": str(OTHER_CORE)}


@contextlib.contextmanager
def upstream(programs: Programs) -> Iterator[int]:
    """A stand-in that belongs to nobody; its port."""
    command = [programs.upstream, "--port", "0", "--alias", "stand-in-0"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield int(re.findall(r"port: (\d+)", process.stderr.readline())[0])
        finally:
            process.kill()


def pin(pids: Iterable[int], core: int) -> None:
    """Processes to a core, with the threads they have and will have."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
