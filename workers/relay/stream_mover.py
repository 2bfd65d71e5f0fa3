"""One thread that moves the bodies of all streams from llama-servers to clients' sockets, with one epoll set.

With a thread for each stream, the threads would compete for the interpreter's lock at every token. Bytes that a client
does not accept are kept, at most one read, and its server is not read meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import socket
import threading
import time

from workers.relay.body import BadFraming, SendFailed, SocketSink
from workers.relay.connections import RECEIVE_BYTES
from workers.relay.reply import Reply

log = logging.getLogger(__name__)

MANY_STREAMS = 100  # together they bring a token every few hundred microseconds
GATHER_SECONDS = 0.0005  # in which tokens of many streams gather: each wake-up costs as much as a token
TIMEOUT_CHECK_SECONDS = 1.0
NO_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class _Stream:
    """One body on its way. Owned by the mover's thread from `move` until `done` is released."""

    __slots__ = ("client", "done", "error", "moved_at", "pending", "reply", "sink", "source")

    def __init__(self, reply: Reply, sink: SocketSink) -> None:
        self.reply = reply
        self.sink = sink
        self.source = reply.connection.socket
        self.client = sink.client.socket
        self.pending = b""  # received from the server, not yet accepted by the client
        self.moved_at = time.monotonic()
        self.error: Exception | None = None
        self.done = threading.Lock()
        self.done.acquire()


class StreamMover:
    """The thread, and its epoll set. A fault in one stream ends that stream alone."""

    def __init__(self, stall_seconds: float, send_seconds: float) -> None:
        self.set_timeouts(stall_seconds, send_seconds)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._new: queue.SimpleQueue[_Stream] = queue.SimpleQueue()
        self._streams: dict[int, _Stream] = {}  # by the descriptor that is waited for; the mover's thread alone
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    def set_timeouts(self, stall_seconds: float, send_seconds: float) -> None:
        """How long a server may send nothing, and how long a client may read nothing."""
        self._stall_seconds = stall_seconds
        self._send_seconds = send_seconds

    def start(self) -> None:
        self._thread.start()

    def move(self, reply: Reply, sink: SocketSink) -> None:
        """Copy the rest of the body and wait for its end. Raises what ended it early: SendFailed, NoAnswer, BadFraming,
        TimeoutError, another OSError."""
        stream = _Stream(reply, sink)
        self._new.put(stream)
        os.eventfd_write(self._wake, 1)
        stream.done.acquire()
        if stream.error is not None:
            raise stream.error

    # --- the mover's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        check_at = time.monotonic() + TIMEOUT_CHECK_SECONDS
        while True:
            events = self._epoll.poll(TIMEOUT_CHECK_SECONDS)
            now = time.monotonic()
            for fd, _ in events:
                if stream := self._streams.get(fd):
                    stream.moved_at = now
                    self._advance(stream, fd)
                else:
                    self._adopt()
            if now >= check_at:
                check_at = now + TIMEOUT_CHECK_SECONDS
                self._end_stalled(now)
            if len(self._streams) >= MANY_STREAMS:
                time.sleep(GATHER_SECONDS)

    def _adopt(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while not self._new.empty():
            stream = self._new.get()
            try:
                self._wait_for(stream, stream.source, select.EPOLLIN)
            except OSError as error:
                self._end(stream, error)

    def _advance(self, stream: _Stream, fd: int) -> None:
        try:
            if stream.pending:
                self._push(stream)
            else:
                self._pull(stream)
        except BlockingIOError:
            pass  # the event belonged to an earlier socket of this number
        except Exception as error:
            if not isinstance(error, OSError | BadFraming):
                log.exception("a fault ended a stream")
            self._forget(fd)
            self._end(stream, error)

    def _pull(self, stream: _Stream) -> None:
        """Once for each token of each stream."""
        piece = stream.reply.forwarded(stream.source.recv(RECEIVE_BYTES, NO_WAIT), stream.sink)
        is_over = stream.reply.body.is_over
        sent_bytes = self._send(stream, piece)
        if sent_bytes < len(piece):
            stream.pending = piece[sent_bytes:]
            self._forget(stream.source.fileno())
            self._wait_for(stream, stream.client, select.EPOLLOUT)
        elif is_over:
            self._forget(stream.source.fileno())
            self._end(stream, None)

    def _push(self, stream: _Stream) -> None:
        """The client accepts bytes again."""
        stream.pending = stream.pending[self._send(stream, stream.pending) :]
        if stream.pending:
            return
        self._forget(stream.client.fileno())
        if stream.reply.body.is_over:
            self._end(stream, None)
        else:
            self._wait_for(stream, stream.source, select.EPOLLIN)

    def _send(self, stream: _Stream, data: bytes) -> int:
        """How many bytes the client accepted. Raises SendFailed."""
        if not data:
            return 0
        try:
            return stream.client.send(data, NO_WAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise SendFailed(error.errno, "the client closed its connection") from error

    def _wait_for(self, stream: _Stream, sock: socket.socket, events: int) -> None:
        self._epoll.register(sock.fileno(), events)
        self._streams[sock.fileno()] = stream

    def _forget(self, fd: int) -> None:
        if self._streams.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _end_stalled(self, now: float) -> None:
        for fd, stream in list(self._streams.items()):
            if stream.pending and now - stream.moved_at > self._send_seconds:
                self._forget(fd)
                self._end(stream, SendFailed(f"the client read nothing for {self._send_seconds:g} s"))
            elif not stream.pending and now - stream.moved_at > self._stall_seconds:
                self._forget(fd)
                server = stream.reply.connection.server
                self._end(stream, TimeoutError(f"{server} sent nothing for {self._stall_seconds:g} s"))

    def _end(self, stream: _Stream, error: Exception | None) -> None:
        stream.error = error
        stream.done.release()
