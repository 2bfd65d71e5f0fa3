"""LargeBodyReader: reads large bodies in a process of its own, so that no stream waits for Python's lock meanwhile."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from app.errors import Draining, Overloaded, ProxyError
from app.ports import BodyFile
from app.request_body.buffer import Buffer

log = logging.getLogger(__name__)

T = TypeVar("T")
Question = tuple[int, Callable[[Buffer], Any]]  # the body's size, and what is to be done with it

READ_SECONDS = 60.0  # 256 MiB of a million values take some 3 s
ANSWER_BYTES = 256 * 1024
MEMORY_PER_BYTE = 10  # the worst: each byte decoded to a character of 4 bytes, twice
_ROOT = Path(__file__).resolve().parents[2]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from workers.request_bodies.reader_process import run; run(int(sys.argv[2]), int(sys.argv[3]))"
)
_INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH")


class _Ended(Exception):
    """The process ended without an answer."""


class LargeBodyReader:
    """One process, started for the first large body, which reads one body at a time. Any thread, by the lock."""

    def __init__(self, max_body_bytes: int) -> None:
        self._memory_bytes = MEMORY_PER_BYTE * max_body_bytes + 1024**3
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_closed = False  # written by `close` alone

    def read(self, body: BodyFile, reading: Callable[[Buffer], T]) -> T:
        """What `reading` returns for the body. `reading` can be pickled, and raises nothing but ProxyErrors.

        Raises what it raises; Overloaded or Draining if the body could not be read.
        """
        result: T = self._result_of((len(body), reading), body.fd)
        return result

    def rewrite(self, body: BodyFile, rewriting: Callable[[Buffer], tuple[bytes, T]], target_fd: int) -> T:
        """The same for a function that returns a new body too, which is written to `target_fd`."""
        result: T = self._result_of((len(body), rewriting), body.fd, target_fd)
        return result

    def _result_of(self, question: Question, *fds: int) -> Any:
        with self._lock:
            answer = self._answer(question, fds)
        if isinstance(answer, ProxyError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, whatever it is reading, and start no other."""
        self._is_closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    def _answer(self, question: Question, fds: Sequence[int]) -> Any:
        is_reused = self._channel is not None
        try:
            try:
                return self._ask(question, fds)
            except _Ended:
                if not is_reused:
                    raise
                return self._ask(question, fds)  # it ended before, the kernel may have needed its memory
        except (_Ended, OSError) as error:
            self._end()
            if self._is_closed:
                return Draining("the service is shutting down; try again once it has restarted")
            log.error("a body of %d bytes could not be read: %s", question[0], error)
            return Overloaded("the body could not be read now; try again")

    def _ask(self, question: Question, fds: Sequence[int]) -> Any:
        channel = self._channel or self._start()
        try:
            socket.send_fds(channel, [pickle.dumps(question)], list(fds))
            answer = channel.recv(ANSWER_BYTES)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer:
            self._end()
            raise _Ended("the body reader ended")
        return pickle.loads(answer)

    def _start(self) -> socket.socket:
        if self._is_closed:
            raise _Ended("the service is shutting down")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-c", _START, str(_ROOT), str(theirs.fileno()), str(self._memory_bytes)]
        env = {name: value for name, value in os.environ.items() if name in _INHERITED}
        with theirs:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        ours.settimeout(READ_SECONDS)
        self._channel = ours
        return ours

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None
