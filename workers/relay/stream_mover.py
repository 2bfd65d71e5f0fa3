"""One thread that moves the bodies of answers from llama-servers to clients: all of them, by one epoll set.

A thread for each stream would have them fight for the interpreter's lock at every token. What a client does not take is
kept, one read of it at most, and its server is read no further meanwhile.
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

from workers.relay.framing import LAST_CHUNK, BadFraming, Chunked, FramedBody
from workers.relay.upstream import RECEIVE_BYTES, NoAnswer
from workers.relay.usage import Tail

log = logging.getLogger(__name__)

MANY = 100  # streams: so many bring a token every few hundred microseconds
GATHER_SECONDS = 0.0005  # in which tokens of many streams gather: each wake-up costs as much as a token
LOOK_SECONDS = 1.0  # how often time-outs are looked for
NO_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class ClientGone(ConnectionError):
    """The client closed its connection, or took nothing for too long."""


class Stream:
    """One body on its way. The mover's alone from `move` until `error` is set and its thread goes on."""

    __slots__ = ("body", "client", "done", "error", "moved_at", "pending", "sent_bytes", "source", "tail")

    def __init__(self, source: socket.socket, client: socket.socket, body: FramedBody, tail: Tail) -> None:
        self.source = source
        self.client = client
        self.body = body
        self.pending = b""  # taken from the server, and not yet by the client
        self.tail = tail
        self.sent_bytes = 0
        self.moved_at = time.monotonic()
        self.error: Exception | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def take(self, data: bytes) -> bytes:
        """What of this data goes to the client, its framing's end included. Raises BadFraming."""
        piece = self.body.raw(data)
        if piece:
            self.tail.add(piece)
        return piece + LAST_CHUNK if self.body.is_over and isinstance(self.body, Chunked) else piece


class StreamMover:
    """The thread, and its epoll set. A fault in one stream ends that stream alone."""

    def __init__(self, stall_seconds: float, send_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._send_seconds = send_seconds
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._new: queue.SimpleQueue[Stream] = queue.SimpleQueue()
        self._streams: dict[int, Stream] = {}  # by the descriptor that is waited for; the mover's thread alone
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def move(self, stream: Stream) -> None:
        """Move the body to its end, and wait for that. Raises what ended it before: ClientGone, NoAnswer, BadFraming,
        TimeoutError, another OSError."""
        self._new.put(stream)
        os.eventfd_write(self._bell, 1)
        stream.done.acquire()
        if stream.error is not None:
            raise stream.error

    # --- its thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        look_at = time.monotonic() + LOOK_SECONDS
        while True:
            events = self._epoll.poll(LOOK_SECONDS)
            now = time.monotonic()
            for number, _ in events:
                if stream := self._streams.get(number):
                    stream.moved_at = now
                    self._step(stream, number)
                else:
                    self._adopt()
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                self._end_the_stalled(now)
            if len(self._streams) >= MANY:
                time.sleep(GATHER_SECONDS)

    def _adopt(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while not self._new.empty():
            stream = self._new.get()
            try:
                self._wait_for(stream, stream.source, select.EPOLLIN)
            except OSError as error:
                self._end(stream, error)

    def _step(self, stream: Stream, number: int) -> None:
        try:
            if stream.pending:
                self._push(stream)
            else:
                self._pull(stream)
        except BlockingIOError:
            pass  # the event was of somebody who had the number before
        except Exception as error:
            if not isinstance(error, OSError | BadFraming):
                log.exception("a stream ended by a fault")
            self._forget(number)
            self._end(stream, error)

    def _pull(self, stream: Stream) -> None:
        """Once for each token of each stream."""
        data = stream.source.recv(RECEIVE_BYTES, NO_WAIT)
        if not data and not stream.body.closed():
            raise NoAnswer("the connection was closed in mid-answer")
        piece = stream.take(data) if data else b""
        sent = self._send(stream, piece)
        if sent < len(piece):
            stream.pending = piece[sent:]
            self._forget(stream.source.fileno())
            self._wait_for(stream, stream.client, select.EPOLLOUT)
        elif stream.body.is_over:
            self._forget(stream.source.fileno())
            self._end(stream, None)

    def _push(self, stream: Stream) -> None:
        """The client takes bytes again."""
        stream.pending = stream.pending[self._send(stream, stream.pending) :]
        if stream.pending:
            return
        self._forget(stream.client.fileno())
        if stream.body.is_over:
            self._end(stream, None)
        else:
            self._wait_for(stream, stream.source, select.EPOLLIN)

    def _send(self, stream: Stream, data: bytes) -> int:
        """How much of it went. Raises ClientGone."""
        if not data:
            return 0
        try:
            sent = stream.client.send(data, NO_WAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(error.errno, "the client closed its connection") from error
        stream.sent_bytes += sent
        return sent

    def _wait_for(self, stream: Stream, sock: socket.socket, what: int) -> None:
        self._epoll.register(sock.fileno(), what)
        self._streams[sock.fileno()] = stream

    def _forget(self, number: int) -> None:
        if self._streams.pop(number, None) is not None:
            self._epoll.unregister(number)

    def _end_the_stalled(self, now: float) -> None:
        for number, stream in list(self._streams.items()):
            if stream.pending and now - stream.moved_at > self._send_seconds:
                self._forget(number)
                self._end(stream, ClientGone(f"the client took nothing for {self._send_seconds:g} s"))
            elif not stream.pending and now - stream.moved_at > self._stall_seconds:
                self._forget(number)
                self._end(stream, TimeoutError("the answer paused for too long"))

    def _end(self, stream: Stream, error: Exception | None) -> None:
        stream.error = error
        stream.done.release()
