"""Programs: the names of the processes that use GPUs, for people who wonder what holds the memory.

Never more of a command line than the name of a script: arguments may hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePath

import psutil

from app.entities.gpu import Program

_INTERPRETER = re.compile(r"python[\d.]*$")
_OPTIONS_WITH_VALUE = ("-W", "-X")


class Programs:
    """Used by the thread `gpus` alone. A name is read once for each process."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[psutil.Process, Program]] = {}

    def named(self, pids: Iterable[int]) -> Mapping[int, Program]:
        """The programs of these processes; without those that have ended, or are not to be seen in a container."""
        found = {pid: each for pid in pids if (each := self._program(pid))}
        self._known = found
        return {pid: program for pid, (_, program) in found.items()}

    def _program(self, pid: int) -> tuple[psutil.Process, Program] | None:
        with suppress(psutil.Error, OSError):
            if (known := self._known.get(pid)) and known[0].is_running():
                return known
            process = psutil.Process(pid)
            return process, Program(_name(process), process.ppid())
        return None


def _name(process: psutil.Process) -> str:
    """ "ollama"; of a Python program "python3 ComfyUI/main.py" or "python3 -m vllm.entrypoints.openai.api_server"."""
    name = str(process.name())
    if not _INTERPRETER.match(name):
        return name
    with suppress(psutil.Error, OSError):
        return f"{name} {_script(process)}".rstrip()
    return name


def _script(process: psutil.Process) -> str:
    arguments = iter(process.cmdline()[1:])
    for argument in arguments:
        if argument == "-m":
            return f"-m {next(arguments, '')}"
        if argument in _OPTIONS_WITH_VALUE:
            next(arguments, None)
        elif argument == "-c":
            return ""
        elif not argument.startswith("-"):
            return _with_folder(process, PurePath(argument))
    return ""


def _with_folder(process: psutil.Process, script: PurePath) -> str:
    """Half of all programs are called main.py."""
    if len(script.parts) < 2:
        with suppress(psutil.Error, OSError):  # of another user's process
            script = PurePath(process.cwd()) / script
    return str(PurePath(*script.parts[-2:]))
