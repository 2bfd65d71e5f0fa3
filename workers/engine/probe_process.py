"""Runs an engine briefly to read its output: --version, --help, --list-devices."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import IO

from workers.server.child_process import parent_death_argv

_TIMEOUT_SECONDS = 20.0
_OUTPUT_LIMIT_BYTES = 1 << 20  # llama-server's help is 60 KB
_TAIL_LINES = 5
_LINE_CHARS = 500  # the message is logged, and in /health
_PIPE_BYTES = 4096  # the least a pipe can hold
# While the first page of such an output is read, its process still has to write the rest: it is there to be looked at.
LONG_OUTPUT_BYTES = 4 * _PIPE_BYTES

_INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
_INHERITED_PREFIXES = ("CUDA_", "NVIDIA_")


class EngineNotFound(Exception):
    """No llama-server was found, or the configured one does not work; the message lists what was tried."""


def engine_environment(extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The complete environment of an engine: a few variables of this process, then `extra`.

    The rest is not inherited: llama-server reads about 160 options from LLAMA_ARG_*, including tools and proxies.
    """
    ours = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return {**ours, **extra}


def probe_output(
    command: tuple[str, ...],
    extra: Mapping[str, str] = MappingProxyType({}),
    while_it_prints: Callable[[int], None] = lambda pid: None,
) -> str:
    """The output of `command` (stdout and stderr). Ignores the exit code: builds differ. Raises EngineNotFound.

    `while_it_prints` is called with its pid once it has printed a page. Of an output of LONG_OUTPUT_BYTES it certainly
    runs at that time.
    """
    try:
        process = subprocess.Popen(
            [*parent_death_argv(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=engine_environment(extra),
            start_new_session=True,
            pipesize=_PIPE_BYTES,
        )
    except OSError as error:
        raise EngineNotFound(f"{command[-2]} cannot be run: {error.strerror}") from error
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    with process:  # closes the pipe
        assert process.stdout is not None
        text = _read_until(process.stdout, deadline, partial(while_it_prints, process.pid))
        code = _wait_or_kill(process, deadline)
    return _check_output(" ".join(command[-2:]), text, code)


def _read_until(stream: IO[bytes], deadline: float, after_a_page: Callable[[], None]) -> str:
    """Read up to the end, the size limit or the deadline: a child outside the process group can keep the pipe open."""
    content, has_a_page = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while len(content) < _OUTPUT_LIMIT_BYTES and selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                break
            content += piece
            if not has_a_page and len(content) >= _PIPE_BYTES:
                has_a_page = True
                after_a_page()
    return content.decode(errors="replace")


def _wait_or_kill(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """The exit code, or None if the process had to be killed."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the group exists: its leader is not reaped yet
        process.wait()
        return None


def _check_output(command: str, text: str, code: int | None) -> str:
    if code is None:
        raise EngineNotFound(f"{command} did not exit within {_TIMEOUT_SECONDS:g} s{last_lines(text)}")
    if code < 0:
        raise EngineNotFound(f"{command} was killed by {signal.Signals(-code).name}{last_lines(text)}")
    if not text.strip():
        raise EngineNotFound(f"{command} printed nothing (exit code {code})")
    return text


def last_lines(text: str) -> str:
    last = [line.strip()[:_LINE_CHARS] for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    return ": " + " | ".join(last) if last else ""
