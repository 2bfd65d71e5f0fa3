"""Notices at once when a client disconnects, whatever its request is waiting for.

Without it a disconnect shows at the next write, which during prompt processing can be minutes away. One thread watches
the sockets of all requests that wait, with one epoll set, at no cost per chunk. A request that is answered at once is
never added: the watch begins with the first wait.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

# EPOLLHUP and EPOLLERR are always reported. A client that closes only its sending half counts as gone, as in nginx.
DISCONNECT_EVENTS = select.EPOLLRDHUP | select.EPOLLONESHOT


class ClientWatch:
    """A client's socket for the length of one request. `on_disconnect` sets what to undo if the client disconnects;
    call `begin` before waiting."""

    def __init__(self, watcher: ClientWatcher | None, fd: int) -> None:
        self._watcher = watcher
        self._fd = fd
        self._is_watched = False  # the request's own thread alone
        self._lock = threading.Lock()  # between the watcher thread and the request's own
        self._action: Callable[[], None] | None = None
        self.is_disconnected = False  # written under the lock; never False again

    def begin(self) -> None:
        """Watch from here on: what follows may take a while."""
        if self._watcher is not None and not self._is_watched:
            self._is_watched = True
            self._watcher.add(self._fd, self)

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        """Call `action` when the client disconnects: on the watcher's thread, or at once if it is gone already."""
        with self._lock:
            self._action = action
            is_disconnected = self.is_disconnected
        if is_disconnected and action is not None:
            action()

    def mark_disconnected(self) -> None:
        """The client is gone: run the action."""
        with self._lock:
            self.is_disconnected = True
            action = self._action
        if action is not None:
            action()

    def close(self) -> None:
        """The request is over. Must come before the socket's file descriptor is closed."""
        self.on_disconnect(None)
        if self._watcher is not None and self._is_watched:
            self._watcher.remove(self._fd)
        self._watcher = None


class ClientWatcher:
    """The thread that watches, and its epoll set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, ClientWatch] = {}  # by fd; under the lock
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="client-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, client: socket.socket | None) -> ClientWatch:
        """A watch for one request. None (no real socket, as in unit tests): the client never disconnects."""
        return ClientWatch(None, -1) if client is None else ClientWatch(self, client.fileno())

    def add(self, fd: int, watch: ClientWatch) -> None:
        """Watch this socket. If that fails, a disconnect is noticed at the next write only."""
        with self._lock:
            try:
                self._epoll.register(fd, DISCONNECT_EVENTS)
            except OSError as error:  # the system's limit on watches, or no memory
                log.warning("a client is not watched: %s", error)
                return
            self._watches[fd] = watch

    def remove(self, fd: int) -> None:
        """Stop watching this socket."""
        with self._lock:
            self._watches.pop(fd, None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                try:
                    self._notify(fd)
                except Exception:
                    log.exception("the action for a disconnected client failed")

    def _notify(self, fd: int) -> None:
        """Notify the watch of this descriptor, unless its client is connected: an event may belong to a socket that is
        closed by now, whose number another client's socket has."""
        with self._lock:
            watch = self._watches.get(fd)
            if watch is None or not _is_disconnected(fd):
                return
        # Not under the lock, which every request needs: the action may run a step of the scheduler.
        watch.mark_disconnected()


def _is_disconnected(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
