"""The body reader's process: reads, or rewrites, one body after the other, each in a file of memory that it is sent.

It ends with the service, whose end closes the channel.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import pickle
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.errors import ProxyError, RequestTooLarge

QUESTION_BYTES = 64 * 1024


def run(channel_fd: int, memory_bytes: int) -> None:
    """Answer until the channel closes. `memory_bytes`: of address space; a body that needs more is rejected."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the service's, which drains
    Path("/proc/self/comm").write_text("body-reader")  # for ps and top
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # it can be started anew, unlike the service
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    gc.disable()  # it would scan a million new values again and again, and none of them are cyclic
    with socket.socket(fileno=channel_fd) as channel:
        while True:
            question, fds, _, _ = socket.recv_fds(channel, QUESTION_BYTES, 2)
            if not question:
                return
            answer = pickle.dumps(_answer(question, fds))
            try:
                channel.send(answer)
            except OSError:  # the service ended meanwhile
                return


def _answer(question: bytes, fds: Sequence[int]) -> Any:
    """What the function in the question returns for the body, or the ProxyError that it raises."""
    size, function = pickle.loads(question)
    try:
        with mmap.mmap(fds[0], size, access=mmap.ACCESS_READ) as body:
            result = function(body)
        if len(fds) == 1:
            return result
        new_body, said = result
        _write(fds[1], new_body)
        return said
    except ProxyError as error:
        return error.with_traceback(None)
    except MemoryError:
        return RequestTooLarge("reading the body would take too much memory; send fewer or smaller values")
    finally:
        for fd in fds:
            os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """Replace what is in the file: an earlier reader may have ended while it wrote."""
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
