"""ConnectionLimit: which connections are closed to make room for new ones. Pure.

A client that opens connections and sends nothing must not keep others out. So at the limit, as in nginx, those that
have waited longest for their client go: idle connections and half-sent heads. One address may not have all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from workers.gunicorn_worker.receiving import ClientConnection, Phase

BATCH = 32  # closed at once, so that a flood costs one search per batch
OTHERS_SHARE = 1024  # connections that one address alone cannot take
MIN_IDLE_SECONDS = 0.1  # a connection that has just become idle is still the thread's that served it
_LAST = {Phase.UNREAD, Phase.LINGERING}  # an answer may be on its way


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


def longest_waiting(connections: Iterable[ClientConnection], address: str, now: float) -> list[ClientConnection]:
    """At most BATCH, and an eighth, of the address's connections that wait for their client, the longest first."""
    waiting = [each for each in connections if each.address == address and _waits(each, now)]
    waiting.sort(key=lambda each: (each.phase in _LAST, each.since))
    return waiting[: min(BATCH, len(waiting) // 8 + 1)]


def _waits(connection: ClientConnection, now: float) -> bool:
    if connection.phase is Phase.IDLE:
        return now - connection.since >= MIN_IDLE_SECONDS
    return connection.phase is not Phase.SERVED
