"""The body reader's process: reads one body after the other, each from a file of memory that it is sent.

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
from pathlib import Path

from app.errors import ProxyError, RequestTooLarge
from app.request_body.content import BodyContent, BodyFormat, read_content

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
            question, fds, _, _ = socket.recv_fds(channel, QUESTION_BYTES, 1)
            if not question:
                return
            answer = pickle.dumps(_answer(question, fds[0]))
            try:
                channel.send(answer)
            except OSError:  # the service ended meanwhile
                return


def _answer(question: bytes, fd: int) -> BodyContent | ProxyError:
    size, form = pickle.loads(question)
    try:
        return _read(fd, size, form)
    except ProxyError as error:
        return error.with_traceback(None)
    except MemoryError:
        return RequestTooLarge("reading the body would take too much memory; send fewer or smaller values")
    finally:
        os.close(fd)


def _read(fd: int, size: int, form: BodyFormat) -> BodyContent:
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as body:
        return read_content(body, form)
