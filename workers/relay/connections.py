"""Connections to servers, mostly the llama-servers of this machine: one at work, and those that wait for their next
request."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from app.ports import BodyFile

RECEIVE_BYTES = 64 * 1024
KEPT_SECONDS = 3.0  # llama-server closes a connection that was idle for 5 s
MAX_KEPT = 64  # for each server
CONNECT_SECONDS = 10.0  # to a listening socket of this machine
MOMENT_SECONDS = 0.004  # small answers of small models take no longer
SEND_SECONDS = 300  # a healthy server reads its requests
RESET_SECONDS = 0.05  # a reset follows the end of a connection as soon as its server closes the socket


@dataclass(slots=True)
class UpstreamConnection:
    """One connection to a server. A receive blocks on the socket for a moment only; a longer wait is announced by
    `on_silence` and made with poll: few system calls where an answer is quick, and each lets other threads run."""

    socket: socket.socket
    port: int
    is_reused: bool = False
    idle_since: float = 0.0  # monotonic seconds
    patience_seconds: float = 0.0
    on_silence: Callable[[], object] = bool  # called before a wait that is longer than a moment
    server: str = "llama-server"  # in messages

    @property
    def is_plain(self) -> bool:
        """Whether the socket's bytes are those of the answer, so that any thread may read them from it."""
        return True

    def has_input(self) -> bool:
        """Whether an idle connection has bytes, or its end, to read: it must not be used again."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def send(self, data: bytes) -> None:
        """Raises TimeoutError, OSError."""
        try:
            self.socket.sendall(data)
        except BlockingIOError as error:
            raise TimeoutError(f"{self.server} read nothing for {SEND_SECONDS} s") from error

    def send_file(self, body: BodyFile) -> None:
        """Raises TimeoutError, OSError."""
        sent_bytes = 0
        try:
            while sent_bytes < len(body):
                sent_bytes += os.sendfile(self.socket.fileno(), body.fd, sent_bytes, len(body) - sent_bytes)
        except BlockingIOError as error:
            raise TimeoutError(f"{self.server} read nothing for {SEND_SECONDS} s") from error

    def receive(self) -> bytes:
        """The next bytes; empty at the end of the connection. Raises TimeoutError, OSError."""
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self.on_silence()
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(1000 * self.patience_seconds):
            raise TimeoutError(f"{self.server} sent nothing for {self.patience_seconds:g} s")
        return self.socket.recv(RECEIVE_BYTES)

    def was_reset(self) -> bool:
        """After the end of the connection: whether the server left bytes of ours unread.

        Its kernel sends a reset for those once the socket is closed, and for bytes that arrive later (Linux 6.1,
        tcp_close and tcp_rcv_state_process). cpp-httplib shuts a socket down, then closes it: the end comes first.
        """
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLHUP and POLLERR are always reported
        return bool(poll.poll(1000 * RESET_SECONDS))

    def shut(self) -> None:
        """Wake the thread that waits on it. From any thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


def connect_here(port: int) -> UpstreamConnection:
    """To a llama-server of this machine. Raises OSError (TimeoutError included)."""
    try:
        return UpstreamConnection(prepared(socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)), port)
    except TimeoutError as error:
        raise TimeoutError(f"llama-server accepted no connection for {CONNECT_SECONDS:g} s") from error


def prepared(made: socket.socket) -> socket.socket:
    """A new connection's socket, as UpstreamConnection expects it."""
    made.setblocking(True)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, round(MOMENT_SECONDS * 1e6)))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
    return made


class UpstreamConnections:
    """Idle connections, by port. Any thread."""

    def __init__(self, connect: Callable[[int], UpstreamConnection] = connect_here) -> None:
        self.new = connect  # raises OSError
        self._idle: dict[int, list[UpstreamConnection]] = defaultdict(list)  # the last used at the end
        self._clean_at = 0.0  # when connections that were idle for too long are closed next; under the lock
        self._lock = threading.Lock()

    def take(self, port: int) -> UpstreamConnection:
        """An idle connection that is still good, else a new one. Raises OSError."""
        while (kept := self._pop(port)) is not None:
            if time.monotonic() - kept.idle_since < KEPT_SECONDS and not kept.has_input():
                kept.is_reused = True
                return kept
            kept.close()
        return self.new(port)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep it for the next request: its answer is complete, and nothing followed it."""
        connection.idle_since = now = time.monotonic()
        connection.on_silence = bool
        with self._lock:
            idle = self._idle[connection.port]
            idle.append(connection)
            old = idle[:-MAX_KEPT]
            del idle[: len(old)]
            if now >= self._clean_at:
                self._clean_at = now + KEPT_SECONDS
                old += self._remove_old(now)
        for connection in old:
            connection.close()

    def forget(self, port: int) -> None:
        """The server on this port has ended. Its end alone would leave our ends open."""
        with self._lock:
            idle = self._idle.pop(port, [])
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _remove_old(self, now: float) -> list[UpstreamConnection]:
        """Those that were idle for too long, whichever server they lead to."""
        old = []
        for port, idle in list(self._idle.items()):
            count = sum(connection.idle_since < now - KEPT_SECONDS for connection in idle)
            old += idle[:count]
            del idle[:count]
            if not idle:
                del self._idle[port]
        return old

    def _pop(self, port: int) -> UpstreamConnection | None:
        with self._lock:
            idle = self._idle.get(port)
            return idle.pop() if idle else None
