"""The ledger: what is free on a GPU and in RAM, and what comes back when a server goes.

    claim(s, d) = 0 once a reading was taken after s became ready, else max(0, booked - what the reading shows for it)
    usable(gpu) = min(free - claims - reserve, max_vram - all that is booked on it, leaving servers included)
    usable(RAM) = min(available - claims, total - all that is booked)

From its claim's end on what is free lacks a server's bytes, whoever they are attributed to. Strangers need no line of
their own: what they hold is not free. RAM has the second term because pages of mapped files count as available to the
kernel although a model needs them; the two are `CPU` and `BOOKS` of a decision's room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.memory import MemoryReading
from app.entities.placement import BOOKS, CPU, PLACES, Card, Resident, Rules
from app.entities.server import Server, ServerState

LEAVING = (ServerState.DRAINING, ServerState.STOPPING)
BACK_SECONDS = 5.0  # a driver gives memory back within 0.5 to 1.5 s of a process's end
BACK_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class ReleasingMemory:
    """Memory of a GPU that a process which has ended held, and that NVML does not show as free yet.

    Measured by what would be free without our servers: others of ours may take what comes back before it is noticed.
    """

    uuid: str
    size_bytes: int
    free_before: int  # without our other servers, by a reading from when it was there
    at: float  # when the process had ended
    unseen_bytes: int = 0  # what it may have had that the last reading before its end still showed as free

    @property
    def until(self) -> float:
        """Then it is not waited for any more: somebody else has it."""
        return self.at + BACK_SECONDS

    def is_awaited(self, snapshot: GpuSnapshot, servers: Iterable[Server], now: float) -> bool:
        is_read = snapshot.at >= self.at
        is_there = is_read and self.missing_bytes(snapshot, servers) <= (1 - BACK_SHARE) * self.size_bytes
        return now < self.until and not is_there

    def claimed_bytes(self, snapshot: GpuSnapshot) -> int:
        """What this reading shows as free although it may not have been."""
        return self.unseen_bytes if snapshot.at < self.at else 0

    def missing_bytes(self, snapshot: GpuSnapshot, servers: Iterable[Server]) -> int:
        free = _free_without(servers, snapshot, self.uuid)
        if free is None or snapshot.at < self.at:
            return self.size_bytes
        return max(0, self.size_bytes - max(0, free - self.free_before))


@dataclass(frozen=True, slots=True)
class Books:
    """The readings, and the servers that have something booked."""

    gpus: GpuSnapshot
    memory: MemoryReading
    servers: tuple[Server, ...]
    rules: Rules
    returning: tuple[ReleasingMemory, ...] = ()
    max_loaded: int | None = None

    def cards(self) -> tuple[Card, ...]:
        """The GPUs as a decision sees them. One whose memory NVML does not tell is none to book on."""
        return tuple(
            self._card(gpu) for gpu in self.gpus.gpus if gpu.total_bytes is not None and gpu.free_bytes is not None
        )

    def shared(self) -> dict[str, int]:
        """What all places share, and how much of it is free. Below zero: it was promised, and somebody took it."""
        claimed = sum(self._claim(server, CPU) for server in self.servers)
        free = {
            CPU: self.memory.available_bytes - claimed,
            BOOKS: self.memory.total_bytes - sum(server.booked.get(CPU, 0) for server in self.servers),
        }
        return free if self.max_loaded is None else {**free, PLACES: self.max_loaded - len(self.servers)}

    def leaving(self) -> dict[str, int]:
        """Of `shared`, what servers that end give back."""
        return self._back_from(ServerState.STOPPING)

    def draining(self) -> dict[str, int]:
        """The same of those that first answer what they have."""
        return self._back_from(ServerState.DRAINING)

    def _back_from(self, state: ServerState) -> dict[str, int]:
        back = {CPU: 0, BOOKS: 0, PLACES: 0}
        for server in self.servers:
            if server.state is state:
                for what in back:
                    back[what] += self._comes_back(server, what)
        return back

    def totals(self) -> dict[str, int]:
        """Of `shared`, what an empty machine has."""
        total = {CPU: self.memory.total_bytes, BOOKS: self.memory.total_bytes}
        return total if self.max_loaded is None else {**total, PLACES: self.max_loaded}

    def residents(self, now: float) -> tuple[Resident, ...]:
        """Our servers, those on their way out aside."""
        here = {gpu.uuid for gpu in self.gpus.gpus}
        return tuple(
            Resident(
                server.id,
                server.model.name,
                {
                    what: self._comes_back(server, what)
                    for what in (*server.booked, BOOKS, PLACES)
                    if what in here or what in (CPU, BOOKS, PLACES)
                },
                is_busy=bool(server.leases) or server.left_behind > 0,
                idle_seconds=max(0.0, now - server.last_used),
                is_loading=server.state is ServerState.STARTING,
            )
            for server in self.servers
            if server.state not in LEAVING
        )

    def at_a_glance(self) -> tuple[object, ...]:
        """All that a decision takes from the books; the same glance, the same decision."""
        held = tuple((each.id, each.held_bytes) for each in self.residents(0.0))
        return self.cards(), self.shared(), self.leaving(), self.draining(), self.totals(), held

    def room_beside(self, server: Server) -> dict[str, int]:
        """What a server that is here may have of each device it is on, with all others as they are."""
        others = replace(self, servers=tuple(each for each in self.servers if each != server))
        shared = others.shared()
        room = {CPU: min(shared[CPU] + self._shown_or_nothing(server, CPU), shared[BOOKS])}
        for card in others.cards():
            if card.uuid in server.booked:
                room[card.uuid] = card.usable_bytes + self._shown_or_nothing(server, card.uuid)
        return room

    def claimed_bytes(self, uuid: str) -> int:
        """What loading servers have yet to take of a GPU, or those that have ended had taken since the reading."""
        ended = sum(each.claimed_bytes(self.gpus) for each in self.returning if each.uuid == uuid)
        return ended + sum(self._claim(server, uuid) for server in self.servers if uuid in server.booked)

    def _card(self, gpu: Gpu) -> Card:
        assert gpu.total_bytes is not None and gpu.free_bytes is not None
        ours = [server for server in self.servers if gpu.uuid in server.booked]
        booked = sum(server.booked[gpu.uuid] for server in ours)
        most, usable = self.rules.room(gpu.total_bytes, gpu.free_bytes - self.claimed_bytes(gpu.uuid), booked)
        returning = sum(
            each.missing_bytes(self.gpus, self.servers) + each.claimed_bytes(self.gpus)
            for each in self.returning
            if each.uuid == gpu.uuid
        )
        return Card(
            uuid=gpu.uuid,
            name=gpu.name,
            index=gpu.index,
            total_bytes=most,
            usable_bytes=usable,
            leaving_bytes=returning + self._back_on(gpu.uuid, ServerState.STOPPING),
            draining_bytes=self._back_on(gpu.uuid, ServerState.DRAINING),
            is_busy=self.rules.is_busy(gpu.utilization_percent or 0),
            is_mig=gpu.is_mig,
        )

    def _back_on(self, uuid: str, state: ServerState) -> int:
        ours = (server for server in self.servers if uuid in server.booked and server.state is state)
        return sum(self._comes_back(server, uuid) for server in ours)

    def _claim(self, server: Server, device: str) -> int:
        """What it has, or will take, that the reading still shows as free. Leaving changes nothing about it."""
        return _unseen(server, device, self._shown(server, device), self._read_at(device))

    def _comes_back(self, server: Server, device: str) -> int:
        """What may be taken by others when it has gone."""
        if device == PLACES:
            return 1
        if device == BOOKS:
            return server.booked.get(CPU, 0)
        shown = self._shown(server, device)
        if shown is None and _is_all_shown(server, self._read_at(device)):
            return server.booked.get(device, 0)
        back = self._claim(server, device) + (shown or 0)
        # Where max_vram is the bound, no more comes back than was booked.
        is_bounded = device != CPU and self.rules.max_vram_bytes is not None
        return min(back, server.booked.get(device, 0)) if is_bounded else back

    def _read_at(self, device: str) -> float:
        return self.memory.at if device == CPU else self.gpus.at

    def _shown_or_nothing(self, server: Server, device: str) -> int:
        return self._shown(server, device) or 0

    def _shown(self, server: Server, device: str) -> int | None:
        """What the reading attributes to it."""
        if device == CPU:
            return self.memory.held_bytes.get(server.id, 0)
        return shown_bytes(self.gpus, device, server.pid)


def shown_bytes(snapshot: GpuSnapshot, uuid: str, pid: int | None) -> int | None:
    """What NVML shows for a process on a GPU; None: it does not say. Pids are not the same in some containers."""
    processes = next((gpu.processes for gpu in snapshot.gpus if gpu.uuid == uuid), None)
    return None if pid is None or processes is None else processes.get(pid)


def given_back(
    server: Server,
    others: Collection[Server],
    snapshot: GpuSnapshot,
    at: float,
    returning: Iterable[ReleasingMemory] = (),
) -> tuple[ReleasingMemory, ...]:
    """What a server that ends `at` holds on GPUs, by a reading from when it was there. What others that have ended
    still lack there comes back meanwhile, and is not this one's."""
    found = []
    for gpu in snapshot.gpus:
        free = _free_without(others, snapshot, gpu.uuid)
        if gpu.uuid in server.booked and free is not None:
            size = _held(server, snapshot, gpu.uuid)
            unseen = _unseen(server, gpu.uuid, size, snapshot.at)
            before = (each for each in returning if each.uuid == gpu.uuid)
            soon = sum(each.missing_bytes(snapshot, (*others, server)) for each in before)
            if size or unseen:
                found.append(ReleasingMemory(gpu.uuid, size, free + soon, at, unseen))
    return tuple(found)


def _free_without(servers: Iterable[Server], snapshot: GpuSnapshot, uuid: str) -> int | None:
    """What would be free of a GPU without these servers, as far as the reading shows them."""
    free = next((gpu.free_bytes for gpu in snapshot.gpus if gpu.uuid == uuid), None)
    return None if free is None else free + sum(_held(server, snapshot, uuid) for server in servers)


def _held(server: Server, snapshot: GpuSnapshot, uuid: str) -> int:
    shown = shown_bytes(snapshot, uuid, server.pid)
    if shown is not None:
        return shown
    return server.booked.get(uuid, 0) if _is_all_shown(server, snapshot.at) else 0


def _unseen(server: Server, device: str, shown: int | None, read_at: float) -> int:
    """What of its booking a reading of then still shows as free."""
    return 0 if _is_all_shown(server, read_at) else max(0, server.booked.get(device, 0) - (shown or 0))


def _is_all_shown(server: Server, read_at: float) -> bool:
    return server.ready_at is not None and read_at > server.ready_at
