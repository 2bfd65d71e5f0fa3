"""Acceptor: accepts connections from the listening sockets while there is capacity."""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence

from workers.gunicorn_worker.receiving import ClientConnection

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
MAX_ACCEPTS = 16  # in a turn of the loop: enough to outrun a burst, few enough for those that are connected


class Acceptor:
    """Manages the listeners in the loop's epoll set. Main thread only."""

    def __init__(self, listeners: Sequence[socket.socket], epoll: select.epoll, send_timeout_seconds: float) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._epoll = epoll
        self._send_timeout = struct.pack("ll", math.ceil(send_timeout_seconds), 0)
        self._is_watching = False
        self._paused_until = 0.0

    def watch(self, has_capacity: bool) -> None:
        """Watch the listeners while another connection may be opened; further ones wait in the kernel's backlog."""
        wanted = has_capacity and time.monotonic() >= self._paused_until
        if wanted == self._is_watching:
            return
        self._is_watching = wanted
        for listener in self._listeners.values():
            if wanted:
                listener.setblocking(False)
                self._epoll.register(listener, select.EPOLLIN)
            else:
                self._epoll.unregister(listener)

    def accept(self, fd: int) -> Iterator[ClientConnection]:
        """Accept the connections that wait at the listener `fd`, at most MAX_ACCEPTS, until accepting fails for now."""
        listener = self._listeners.get(fd)
        if listener is None:
            # A connection that was closed while a child, between fork and exec, still holds a copy of its socket: epoll
            # keeps reporting it. Because of EPOLLONESHOT this is its last event.
            return
        for _ in range(MAX_ACCEPTS):
            try:
                sock, client = listener.accept()
            except OSError as error:
                self._pause(error)
                return
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, self._send_timeout)
            yield ClientConnection(sock, client, listener.getsockname())

    def _pause(self, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
            return
        # Usually out of file descriptors; some become free when streams end.
        log.warning("cannot accept for %.1f s: %s", PAUSE_SECONDS, error)
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self.watch(has_capacity=False)
