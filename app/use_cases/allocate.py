"""Where a model fits: the ledger of what is free, and the reason when nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.entities.memory import MemoryReading
from app.entities.server import Server, ServerState


@dataclass(frozen=True, slots=True)
class NoFit:
    """There is no room, and how much there is. `ever` says whether an empty machine would do."""

    needed_bytes: int
    usable_bytes: int
    total_bytes: int

    @property
    def ever(self) -> bool:
        return self.needed_bytes <= self.total_bytes


def usable_bytes(memory: MemoryReading, servers: Iterable[Server]) -> int:
    """RAM a new model may take, with every one of `servers` where it is.

    The reading lacks what a server that is still loading will take, so its whole booking is set aside
    until the first reading after it became ready. A mapped file's pages count as available to the kernel
    although the model needs them, so the sum of all bookings, leaving ones included, stays below the total too.
    """
    servers = tuple(servers)
    claimed = sum(s.expected_bytes for s in servers if _is_claim(s, memory))
    booked = sum(s.expected_bytes for s in servers)
    return max(0, min(memory.available_bytes - claimed, memory.total_bytes - booked))


def _is_claim(server: Server, memory: MemoryReading) -> bool:
    return server.state is not ServerState.STOPPING and (server.ready_at is None or memory.at <= server.ready_at)


def place(needed_bytes: int, memory: MemoryReading, servers: Iterable[Server]) -> NoFit | None:
    """None when a model of `needed_bytes` fits into RAM beside `servers`, else why not."""
    usable = usable_bytes(memory, servers)
    if needed_bytes <= usable:
        return None
    return NoFit(needed_bytes, usable, memory.total_bytes)
