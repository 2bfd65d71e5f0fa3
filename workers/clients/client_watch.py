"""Notices at once when a client goes away, whatever its request is waiting for.

A generator learns of a gone client at its next write, which in prompt processing can be minutes away. One thread
with one epoll set watches the sockets of the requests in flight instead; it costs nothing per chunk. Nor is it asked
about a request that is answered at once: a client is watched from its first wait on.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

# EPOLLHUP and EPOLLERR come unasked. A client that closes only its sending half counts as gone, as in nginx.
GONE = select.EPOLLRDHUP | select.EPOLLONESHOT


class ClientWatch:
    """A client's socket for the length of one request. `on_disconnect` sets what to undo if the client disconnects;
    call `begin` before waiting."""

    def __init__(self, watcher: ClientWatcher | None, fd: int) -> None:
        self._watcher = watcher
        self._fd = fd
        self._is_watched = False  # the request's own thread alone
        self._lock = threading.Lock()  # between the watcher thread and the request's own
        self._action: Callable[[], None] | None = None
        self.gone = False  # written under the lock; once True it stays so

    def begin(self) -> None:
        """Watch from here on: something may take a while."""
        if self._watcher is not None and not self._is_watched:
            self._is_watched = True
            self._watcher.add(self._fd, self)

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        """Call `action` when the client leaves: on the watcher's thread, or here and now if it has left already."""
        with self._lock:
            self._action = action
            gone = self.gone
        if gone and action is not None:
            action()

    def mark_disconnected(self) -> None:
        with self._lock:
            self.gone = True
            action = self._action
        if action is not None:
            action()

    def close(self) -> None:
        """The request is over. Must come before the socket's file descriptor is closed."""
        self.on_disconnect(None)
        if self._watcher is not None and self._is_watched:
            self._watcher.forget(self._fd)
        self._watcher = None


class ClientWatcher:
    """The thread that watches, and its epoll set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, ClientWatch] = {}  # by fd; under the lock
        # An event may be of a socket that is closed by now, its number another client's: see `_notice`.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="client-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, client: socket.socket | None) -> ClientWatch:
        """For a request's client. None (no real socket, as in unit tests) gives a watch that never fires."""
        return ClientWatch(None, -1) if client is None else ClientWatch(self, client.fileno())

    def add(self, fd: int, watch: ClientWatch) -> None:
        """A client that cannot be watched is missed at its next write only: its request goes on, and ends as any."""
        with self._lock:
            try:
                self._epoll.register(fd, GONE)
            except OSError as error:  # the system's limit on watches, its memory
                log.warning("a client is not watched: %s", error)
                return
            self._watches[fd] = watch

    def forget(self, fd: int) -> None:
        with self._lock:
            self._watches.pop(fd, None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                try:
                    self._notice(fd)
                except Exception:
                    log.exception("undoing a request whose client left failed")

    def _notice(self, fd: int) -> None:
        """Tell the watch of this number, unless its client is still there: the event was its predecessor's then."""
        with self._lock:
            watch = self._watches.get(fd)
            if watch is None or not _has_left(fd):
                return
        # Not under the lock, which all requests want: what is undone may be the scheduler's next turn.
        watch.mark_disconnected()


def _has_left(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
