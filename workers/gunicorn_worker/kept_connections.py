"""KeptConnections: clients' connections between two requests.

The thread that answered the last request puts its connection here; the main loop takes out those whose next request
begins to come, and those that waited for too long. So a request wakes the main loop once, not twice.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

from workers.gunicorn_worker.receiving import Connection

ONCE = select.EPOLLIN | select.EPOLLONESHOT


class KeptConnections:
    """What gunicorn's worker has a deque for, oldest first, with an epoll set of its own. Any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}  # by file descriptor
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, conn: Connection) -> None:
        number = conn.sock.fileno()
        with self._lock:
            self._connections[number] = conn
        # It stays in the set while its request is answered, and asks for nothing.
        if conn.was_kept:
            self._epoll.modify(number, ONCE)
        else:
            conn.was_kept = True
            self._epoll.register(number, ONCE)

    def take_readable(self) -> list[Connection]:
        numbers = [number for number, _ in self._epoll.poll(0)]
        with self._lock:
            found = [self._connections.pop(number, None) for number in numbers]
        return [conn for conn in found if conn is not None]

    def take_overdue(self, now: float) -> list[Connection]:
        with self._lock:
            overdue = []
            for conn in self._connections.values():
                if conn.timeout > now:
                    break
                overdue.append(conn)
            for conn in overdue:
                del self._connections[conn.sock.fileno()]
        return overdue

    def first_deadline(self) -> float:
        """When the oldest has waited for too long."""
        with self._lock:
            return next((conn.timeout for conn in self._connections.values()), float("inf"))

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        with self._lock:
            return iter(list(self._connections.values()))

    def __getitem__(self, index: int) -> Connection:
        return list(self)[index]
