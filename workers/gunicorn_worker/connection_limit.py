"""OpenConnections, and which of them are closed to make room for new ones.

A client that opens connections and sends nothing must not keep others out. So at the limit, as in nginx, those that
have waited longest for their client go: idle connections and half-sent heads. One address may not have all of them.
"""

from __future__ import annotations

import logging
import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from workers.gunicorn_worker.receiving import ClientConnection, Phase

log = logging.getLogger(__name__)

SPARE = 64  # connections beyond the limit: those within it may all be busy for a moment
BATCH = 32  # closed at once, so that a flood costs one search per batch
OTHERS_SHARE = 512  # connections that one address alone cannot take
MIN_IDLE_SECONDS = 0.1  # many clients send their next request at once
_LAST = {Phase.UNREAD, Phase.LINGERING}  # an answer may be on its way
_WAITS_FOR_US = {Phase.QUEUED, Phase.SERVED}


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """How many connections may be open: in all, and of one address."""

    total: int
    per_address: int

    @classmethod
    def of(cls, total: int) -> ConnectionLimit:
        return cls(total, max(total // 2, total - OTHERS_SHARE))

    def excess(self, counts: Counter[str], open_connections: int, address: str) -> str | None:
        """The address whose connections must make room for one more of `address`: its own, or that with the most."""
        if counts[address] >= self.per_address:
            return address
        return counts.most_common(1)[0][0] if open_connections >= self.total else None


class OpenConnections:
    """All open connections, by file descriptor. Main thread only."""

    def __init__(self, limit: ConnectionLimit) -> None:
        self.limit = limit
        self._by_fd: dict[int, ClientConnection] = {}
        self._counts: Counter[str] = Counter()  # by client address

    def __len__(self) -> int:
        return len(self._by_fd)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._by_fd.values())

    @property
    def has_capacity(self) -> bool:
        return len(self) < self.limit.total + SPARE

    def get(self, fd: int) -> ClientConnection | None:
        return self._by_fd.get(fd)

    def add(self, connection: ClientConnection) -> None:
        self._by_fd[connection.sock.fileno()] = connection
        self._counts[connection.address] += 1

    def close(self, connection: ClientConnection) -> None:
        del self._by_fd[connection.sock.fileno()]
        self._counts[connection.address] -= 1
        if not self._counts[connection.address]:
            del self._counts[connection.address]
        connection.sock.close()

    def in_the_way(self, address: str, now: float) -> list[ClientConnection]:
        """Those to be closed before one more of this address is opened."""
        crowded = self.limit.excess(self._counts, len(self), address)
        return longest_waiting(self, crowded, now) if crowded is not None else []


def max_connections(wanted: int) -> int:
    """As many as half of the file descriptors allow; the others are for connections to engines, bodies and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft // 2)
    if possible < wanted:
        log.warning("at most %d connections instead of %d: only %d files may be open", possible, wanted, soft)
    return possible


def longest_waiting(connections: Iterable[ClientConnection], address: str, now: float) -> list[ClientConnection]:
    """At most BATCH, and an eighth, of the address's connections that wait for their client, the longest first."""
    waiting = [each for each in connections if each.address == address and _waits(each, now)]
    waiting.sort(key=lambda each: (each.phase in _LAST, each.since))
    return waiting[: min(BATCH, len(waiting) // 8 + 1)]


def _waits(connection: ClientConnection, now: float) -> bool:
    if connection.phase is Phase.IDLE:
        return now - connection.since >= MIN_IDLE_SECONDS
    return connection.phase not in _WAITS_FOR_US
