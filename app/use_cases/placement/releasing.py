"""Memory of exited processes that the GPUs do not show as free yet, and what readings show of running ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from app.entities.gpu import GpuSnapshot
from app.entities.server import Server

RELEASE_TIMEOUT_SECONDS = 5.0  # a driver frees the memory within 0.5 to 1.5 s of a process's exit
RELEASED_SHARE = 0.75  # of the memory: then the rest is no longer waited for


@dataclass(frozen=True, slots=True)
class ReleasingMemory:
    """GPU memory of a process that has exited, not yet shown as free by NVML.

    Measured by what would be free without our servers: another of them may take the memory before a reading shows it.
    """

    uuid: str
    size_bytes: int
    free_before: int  # free without our other servers, by a reading from before the exit
    at: float  # monotonic seconds of the exit
    unseen_bytes: int = 0  # what it may have allocated after the last reading before its exit

    @property
    def expires_at(self) -> float:
        """When it is no longer waited for: another process must have taken it."""
        return self.at + RELEASE_TIMEOUT_SECONDS

    def is_pending(self, snapshot: GpuSnapshot, servers: Iterable[Server], now: float) -> bool:
        """Whether it is still waited for: RELEASED_SHARE of it is not free yet, and it has not expired."""
        is_read = snapshot.read_at(self.uuid) >= self.at
        is_free = is_read and self.outstanding_bytes(snapshot, servers) <= (1 - RELEASED_SHARE) * self.size_bytes
        return now < self.expires_at and not is_free

    def claimed_bytes(self, snapshot: GpuSnapshot) -> int:
        """What this reading shows as free although the process may have allocated it."""
        return self.unseen_bytes if snapshot.read_at(self.uuid) < self.at else 0

    def outstanding_bytes(self, snapshot: GpuSnapshot, servers: Iterable[Server]) -> int:
        """What this reading does not show as free yet."""
        free = _free_without(servers, snapshot, self.uuid)
        if free is None or snapshot.read_at(self.uuid) < self.at:
            return self.size_bytes
        return max(0, self.size_bytes - max(0, free - self.free_before))


def shown_bytes(snapshot: GpuSnapshot, uuid: str, pid: int | None) -> int | None:
    """What NVML shows for a process on a GPU; None: it does not say. In some containers pids differ."""
    processes = next((gpu.processes for gpu in snapshot.gpus if gpu.uuid == uuid), None)
    return None if pid is None or processes is None else processes.get(pid)


def memory_to_release(
    server: Server,
    others: Collection[Server],
    snapshot: GpuSnapshot,
    at: float,
    releasing: Iterable[ReleasingMemory] = (),
) -> tuple[ReleasingMemory, ...]:
    """What a server that exits `at` (monotonic seconds) holds on GPUs, by a reading from before.

    What earlier exits have still to release there is not counted as this server's.
    """
    found = []
    for gpu in snapshot.gpus:
        free = _free_without(others, snapshot, gpu.uuid)
        if gpu.uuid in server.booked and free is not None:
            size = _held(server, snapshot, gpu.uuid)
            unseen = unseen_bytes(server, gpu.uuid, size, snapshot.read_at(gpu.uuid))
            earlier = (each for each in releasing if each.uuid == gpu.uuid)
            outstanding = sum(each.outstanding_bytes(snapshot, (*others, server)) for each in earlier)
            if size or unseen:
                found.append(ReleasingMemory(gpu.uuid, size, free + outstanding, at, unseen))
    return tuple(found)


def _free_without(servers: Iterable[Server], snapshot: GpuSnapshot, uuid: str) -> int | None:
    """What would be free on a GPU without these servers, as far as the reading shows them; None: it is missing."""
    free = next((gpu.free_bytes for gpu in snapshot.gpus if gpu.uuid == uuid), None)
    return None if free is None else free + sum(_held(server, snapshot, uuid) for server in servers)


def _held(server: Server, snapshot: GpuSnapshot, uuid: str) -> int:
    shown = shown_bytes(snapshot, uuid, server.pid)
    if shown is not None:
        return shown
    return server.booked.get(uuid, 0) if is_all_shown(server, snapshot.read_at(uuid)) else 0


def unseen_bytes(server: Server, device: str, shown: int | None, read_at: float) -> int:
    """The part of its booking that a reading taken at `read_at` still shows as free."""
    return 0 if is_all_shown(server, read_at) else max(0, server.booked.get(device, 0) - (shown or 0))


def is_all_shown(server: Server, read_at: float) -> bool:
    """Whether a reading taken at `read_at` shows all that the server allocates: it was ready before."""
    return server.ready_at is not None and read_at > server.ready_at
