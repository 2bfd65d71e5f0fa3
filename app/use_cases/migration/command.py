"""The command of a llama-swap model, taken apart as text. No shell sees it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MAX_COMMAND = 64 * 1024  # characters; Linux takes no longer argument either
_CONTAINERS = ("docker", "podman", "nerdctl", "apptainer", "singularity")
_LLAMA_SERVER = re.compile(r"llama-server([-_.].*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_NEGATIVE_NUMBER = re.compile(r"-\.?[0-9].*")
_WINDOWS = re.compile(r"""\s*["']?([A-Za-z]:\\|\.\\)""")


class NotConvertible(Exception):
    """The command does not start llama-server in a way that the service could."""


@dataclass(frozen=True, slots=True)
class WrittenOption:
    """`name` as llama-server's --help has it (`--ctx-size`, `-c`); `values` are the words after it."""

    name: str
    values: tuple[str, ...] = field(repr=False)  # may hold a secret


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """`env`: variables that the command sets with env(1)."""

    program: str
    options: tuple[WrittenOption, ...]
    env: tuple[str, ...] = field(default=(), repr=False)


def parse_command(text: str) -> EngineCommand:
    """The command that starts llama-server. Raises NotConvertible."""
    words = _words(text)
    env: list[str] = []
    if words and _basename(words[0]) == "env":
        words = words[1:]
        while words and _VARIABLE.fullmatch(words[0]):
            env.append(words.pop(0))
    if not words:
        raise NotConvertible("its command is empty")
    program, *rest = words
    if _basename(program) == "llama" and rest[:1] == ["serve"]:  # llama.cpp's program with all its tools
        rest = rest[1:]
    elif not _LLAMA_SERVER.fullmatch(_basename(program)):
        raise NotConvertible(_why_not(program))
    return EngineCommand(program, tuple(_options(rest)), tuple(env))


def _words(text: str) -> list[str]:
    if len(text) > MAX_COMMAND:
        raise NotConvertible(f"its command is longer than {MAX_COMMAND // 1024} KiB")
    if _WINDOWS.match(text):
        raise NotConvertible("its command is one of Windows; this service runs on Linux")
    lines = (line for line in text.split("\n") if not line.strip().startswith("#"))
    try:
        return shlex.split(" ".join(line.rstrip().removesuffix("\\") for line in lines))
    except ValueError as error:
        raise NotConvertible(f"its command cannot be split into words: {str(error).lower()}") from None


def _basename(program: str) -> str:
    return program.rpartition("/")[2].removesuffix(".exe")


def _why_not(program: str) -> str:
    name = _basename(program)
    if name in _CONTAINERS:
        return f"its command is {name}; the service starts llama-server itself, without a container for each model"
    return f"its command is {name}, not llama-server, which is all that the service starts"


def _options(words: Sequence[str]) -> Iterator[WrittenOption]:
    """Each option with the words up to the next one: llama-server takes no other words."""
    name = ""
    values: list[str] = []
    for word in words:
        if word.startswith("-") and not _NEGATIVE_NUMBER.fullmatch(word):
            if name or values:
                yield WrittenOption(name, tuple(values))
            name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            name, values = (name.replace("_", "-") if name.startswith("--") else name), [value] if equals else []
        else:
            values.append(word)
    if name or values:
        yield WrittenOption(name, tuple(values))
