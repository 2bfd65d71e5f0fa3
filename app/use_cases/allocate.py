"""Where a model fits: the ledger of what is free, and the reason when nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.entities.memory import MemoryReading
from app.entities.server import Server


@dataclass(frozen=True, slots=True)
class NoFit:
    """There is no room, and how much there is. `ever` says whether an empty machine would do."""

    needed_bytes: int
    usable_bytes: int
    total_bytes: int

    @property
    def ever(self) -> bool:
        return self.needed_bytes <= self.total_bytes


def usable_bytes(memory: MemoryReading, servers: Iterable[Server], back_bytes: int = 0) -> int:
    """RAM a new model may take beside `servers`, once `back_bytes` of those that are not named have come back.

    What a server that is still loading has yet to take is set aside, until the first reading after it became ready.
    A mapped file's pages count as available to the kernel although the model needs them, so the sum of all
    bookings, leaving ones included, stays below the total too.
    """
    servers = tuple(servers)
    claimed = sum(_claim_bytes(s, memory) for s in servers)
    booked = sum(s.expected_bytes for s in servers)
    return max(0, min(memory.available_bytes + back_bytes - claimed, memory.total_bytes - booked))


def held_bytes(server: Server, memory: MemoryReading) -> int:
    """What the reading lacks because of this server: it comes back when the server goes."""
    return memory.held_bytes.get(server.id, 0)


def _claim_bytes(server: Server, memory: MemoryReading) -> int:
    """What it has, or will take, that the reading still shows as available. Leaving changes nothing about it."""
    is_all_shown = server.ready_at is not None and memory.at > server.ready_at
    return 0 if is_all_shown else max(0, server.expected_bytes - held_bytes(server, memory))


def place(needed_bytes: int, memory: MemoryReading, servers: Iterable[Server], back_bytes: int = 0) -> NoFit | None:
    """None when a model of `needed_bytes` fits into RAM beside `servers`, else why not."""
    usable = usable_bytes(memory, servers, back_bytes)
    if needed_bytes <= usable:
        return None
    return NoFit(needed_bytes, usable, memory.total_bytes)
