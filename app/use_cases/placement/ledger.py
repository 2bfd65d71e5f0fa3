"""The ledger: what is free on each GPU and in RAM, and what a server releases when it stops.

    claim(server, device) = 0 for a reading taken after the server was ready, else max(0, booked - shown by the reading)
    usable(gpu) = min(free - claims - reserve, max_vram - all bookings on it, those of stopping servers included)
    usable(RAM) = min(available - claims, total - all bookings)

Once its claim has ended, a server's bytes are missing from what is free, whichever process NVML attributes them to.
Other processes need no entry: what they hold is not free. RAM has the second term because the kernel counts the pages
of mapped files as available although a model needs them; the two terms are the resources CPU and UNBOOKED_RAM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.memory import MemoryReading
from app.entities.placement import CPU, LOAD_QUOTA, SHARED_RESOURCES, UNBOOKED_RAM, Card, GpuLimits, Resident
from app.entities.server import Server, ServerState

ENDING_STATES = (ServerState.DRAINING, ServerState.STOPPING)
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


@dataclass(frozen=True, slots=True)
class Ledger:
    """The readings of GPUs and RAM, and the servers with bookings. Shared resources: CPU, UNBOOKED_RAM, LOAD_QUOTA."""

    gpus: GpuSnapshot
    memory: MemoryReading
    servers: tuple[Server, ...]
    gpu_limits: GpuLimits
    releasing: tuple[ReleasingMemory, ...] = ()
    max_loaded: int | None = None

    def cards(self) -> tuple[Card, ...]:
        """The GPUs as a decision sees them."""
        return tuple(map(self._card, self.gpus.gpus))

    def shared_free(self) -> dict[str, int]:
        """What is free of each shared resource; negative if another process took RAM that was booked."""
        claimed = sum(self._claim(server, CPU) for server in self.servers)
        free = {
            CPU: self.memory.available_bytes - claimed,
            UNBOOKED_RAM: self.memory.total_bytes - sum(server.booked.get(CPU, 0) for server in self.servers),
        }
        return free if self.max_loaded is None else {**free, LOAD_QUOTA: self.max_loaded - len(self.servers)}

    def shared_releasing(self) -> dict[str, int]:
        """What stopping servers will release of each shared resource."""
        return self._released_in(ServerState.STOPPING)

    def shared_draining(self) -> dict[str, int]:
        """What draining servers will release of each shared resource."""
        return self._released_in(ServerState.DRAINING)

    def _released_in(self, state: ServerState) -> dict[str, int]:
        servers = [server for server in self.servers if server.state is state]
        return {what: sum(self._released_by(server, what) for server in servers) for what in SHARED_RESOURCES}

    def shared_totals(self) -> dict[str, int]:
        """What an empty machine has of each shared resource."""
        total = {CPU: self.memory.total_bytes, UNBOOKED_RAM: self.memory.total_bytes}
        return total if self.max_loaded is None else {**total, LOAD_QUOTA: self.max_loaded}

    def residents(self, now: float) -> tuple[Resident, ...]:
        """Our servers that are neither draining nor stopping. `now` in monotonic seconds."""
        present = {gpu.uuid for gpu in self.gpus.gpus}
        return tuple(
            Resident(
                server.id,
                server.model.name,
                {
                    what: self._released_by(server, what)
                    for what in (*server.booked, UNBOOKED_RAM, LOAD_QUOTA)
                    if what in present or what in SHARED_RESOURCES
                },
                is_busy=bool(server.leases) or server.abandoned_slots > 0,
                idle_seconds=max(0.0, now - server.last_used),
                is_loading=server.state is ServerState.STARTING,
            )
            for server in self.servers
            if server.state not in ENDING_STATES
        )

    def fingerprint(self) -> tuple[object, ...]:
        """Everything a decision reads from the ledger: equal fingerprints give equal decisions."""
        held = tuple((resident.id, resident.held_bytes) for resident in self.residents(0.0))
        shared = self.shared_free(), self.shared_releasing(), self.shared_draining(), self.shared_totals()
        return self.cards(), *shared, held

    def available_to(self, server: Server) -> dict[str, int]:
        """Bytes that a running server may use on each of its devices: what it holds and what is free."""
        others = replace(self, servers=tuple(each for each in self.servers if each != server))
        shared = others.shared_free()
        available = {CPU: min(shared[CPU] + (self._shown(server, CPU) or 0), shared[UNBOOKED_RAM])}
        for card in others.cards():
            if card.uuid in server.booked:
                available[card.uuid] = card.usable_bytes + (self._shown(server, card.uuid) or 0)
        return available

    def claimed_bytes(self, uuid: str) -> int:
        """What loading servers have yet to allocate on a GPU, and exited ones may have allocated since the reading."""
        exited = sum(each.claimed_bytes(self.gpus) for each in self.releasing if each.uuid == uuid)
        return exited + sum(self._claim(server, uuid) for server in self.servers if uuid in server.booked)

    def _card(self, gpu: Gpu) -> Card:
        ours = [server for server in self.servers if gpu.uuid in server.booked]
        booked = sum(server.booked[gpu.uuid] for server in ours)
        reserve = self.gpu_limits.reserve_of(gpu)
        capacity, usable = self.gpu_limits.budget(
            reserve, gpu.total_bytes, gpu.free_bytes - self.claimed_bytes(gpu.uuid), booked
        )
        releasing = sum(
            each.outstanding_bytes(self.gpus, self.servers) + each.claimed_bytes(self.gpus)
            for each in self.releasing
            if each.uuid == gpu.uuid
        )
        return Card(
            uuid=gpu.uuid,
            name=gpu.name,
            index=gpu.index,
            total_bytes=capacity,
            usable_bytes=usable,
            releasing_bytes=releasing + self._held_on(gpu.uuid, ServerState.STOPPING),
            draining_bytes=self._held_on(gpu.uuid, ServerState.DRAINING),
            is_busy=self.gpu_limits.is_busy(gpu.utilization_percent or 0),
            is_mig=gpu.is_mig,
            reserve_bytes=reserve,
            drives_display=gpu.drives_display,
        )

    def _held_on(self, uuid: str, state: ServerState) -> int:
        ours = (server for server in self.servers if uuid in server.booked and server.state is state)
        return sum(self._released_by(server, uuid) for server in ours)

    def _claim(self, server: Server, device: str) -> int:
        """What it has allocated or will allocate that the reading still shows as free; stopping does not change it."""
        return _unseen(server, device, self._shown(server, device), self._read_at(device))

    def _released_by(self, server: Server, device: str) -> int:
        """What is usable for others once it has exited."""
        if device == LOAD_QUOTA:
            return 1
        if device == UNBOOKED_RAM:
            return server.booked.get(CPU, 0)
        shown = self._shown(server, device)
        if shown is None and _is_all_shown(server, self._read_at(device)):
            return server.booked.get(device, 0)
        released = self._claim(server, device) + (shown or 0)
        # If max_vram limits the GPU, no more than the booking becomes usable.
        is_bounded = device != CPU and self.gpu_limits.max_vram_bytes is not None
        return min(released, server.booked.get(device, 0)) if is_bounded else released

    def _read_at(self, device: str) -> float:
        return self.memory.at if device == CPU else self.gpus.read_at(device)

    def _shown(self, server: Server, device: str) -> int | None:
        """What the reading attributes to it; None: NVML does not say."""
        if device == CPU:
            return self.memory.held_bytes.get(server.id, 0)
        return shown_bytes(self.gpus, device, server.pid)


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
            unseen = _unseen(server, gpu.uuid, size, snapshot.read_at(gpu.uuid))
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
    return server.booked.get(uuid, 0) if _is_all_shown(server, snapshot.read_at(uuid)) else 0


def _unseen(server: Server, device: str, shown: int | None, read_at: float) -> int:
    """The part of its booking that a reading taken at `read_at` still shows as free."""
    return 0 if _is_all_shown(server, read_at) else max(0, server.booked.get(device, 0) - (shown or 0))


def _is_all_shown(server: Server, read_at: float) -> bool:
    return server.ready_at is not None and read_at > server.ready_at
