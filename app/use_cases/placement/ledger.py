"""The ledger: what is free on each GPU and in RAM, and what a server releases when it stops.

    claim(server, device) = max(0, booked - shown by the reading); for a reading taken after the server was ready only
                            what its prompt cache may still take
    usable(gpu) = min(free - claims - reserve, max_vram - all bookings on it, those of stopping servers included)
    usable(RAM) = min(available - claims, total - all bookings), less the reserve of a GPU that uses RAM as its memory

Once its claim has ended, a server's bytes are missing from what is free, whichever process NVML attributes them to.
Other processes need no entry: what they hold is not free. RAM has the second term because the kernel counts the pages
of mapped files as available although a model needs them; the two terms are the resources CPU and UNBOOKED_RAM.

A GPU with unified memory has none of its own: a byte booked on it is booked in RAM, and its max_vram is one of RAM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.placement import CPU, LOAD_QUOTA, SHARED_RESOURCES, UNBOOKED_RAM, Card, GpuLimits, Resident
from app.entities.server import Server, ServerState
from app.use_cases.placement.releasing import ReleasingMemory, is_all_shown, shown_bytes, unseen_bytes

ENDING_STATES = (ServerState.DRAINING, ServerState.STOPPING)


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
        claimed = sum(self._claim(server, each) for server in self.servers for each in server.placement.ram_devices)
        exited = sum(each.claimed_bytes(self.gpus) for each in self._releasing_ram)
        # The GPUs' reading of RAM is as old as what they show of processes, which reduces the claims. While they are
        # asleep no server is on them.
        unified = () if self.gpus.state is GpuState.ASLEEP else self._unified
        readings = (self.memory.available_bytes, *(gpu.free_bytes for gpu in unified))
        free = {
            CPU: min(readings) - claimed - exited - self._ram_reserve,
            UNBOOKED_RAM: self._ram_capacity - sum(map(_booked_ram, self.servers)),
        }
        return free if self.max_loaded is None else {**free, LOAD_QUOTA: self.max_loaded - len(self.servers)}

    def shared_releasing(self) -> dict[str, int]:
        """What stopping servers will release of each shared resource."""
        released = self._released_in(ServerState.STOPPING)
        exited = sum(
            each.outstanding_bytes(self.gpus, self.servers) + each.claimed_bytes(self.gpus)
            for each in self._releasing_ram
        )
        return {**released, CPU: released[CPU] + exited}

    def shared_draining(self) -> dict[str, int]:
        """What draining servers will release of each shared resource."""
        return self._released_in(ServerState.DRAINING)

    def _released_in(self, state: ServerState) -> dict[str, int]:
        servers = [server for server in self.servers if server.state is state]
        return {what: sum(self._released_by(server, what) for server in servers) for what in SHARED_RESOURCES}

    def shared_totals(self) -> dict[str, int]:
        """What an empty machine has of each shared resource."""
        total = {CPU: self._ram_capacity, UNBOOKED_RAM: self._ram_capacity}
        return total if self.max_loaded is None else {**total, LOAD_QUOTA: self.max_loaded}

    def residents(self, now: float) -> tuple[Resident, ...]:
        """Our servers that are neither draining nor stopping. `now` in monotonic seconds."""
        present = {gpu.uuid for gpu in self.gpus.gpus if not gpu.is_unified}
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
                spare_cache_bytes=server.spare_cache_bytes,
            )
            for server in self.servers
            if server.state not in ENDING_STATES
        )

    def fingerprint(self) -> tuple[object, ...]:
        """Everything a decision reads from the ledger: equal fingerprints give equal decisions."""
        held = tuple((resident.id, resident.held_bytes) for resident in self.residents(0.0))
        shared = self.shared_free(), self.shared_releasing(), self.shared_draining(), self.shared_totals()
        return self.cards(), *shared, held, self.gpus.views

    def available_to(self, server: Server) -> dict[str, int]:
        """Bytes that a running server may use on each of its devices: what it holds and what is free."""
        others = replace(self, servers=tuple(each for each in self.servers if each != server))
        shared = others.shared_free()
        held = sum(self._shown(server, each) or 0 for each in server.placement.ram_devices)
        available = {CPU: min(shared[CPU] + held, shared[UNBOOKED_RAM])}
        for card in others.cards():
            if card.uuid in server.booked and not card.is_unified:
                available[card.uuid] = card.usable_bytes + (self._shown(server, card.uuid) or 0)
        return available

    def claimed_bytes(self, uuid: str) -> int:
        """What loading servers have yet to allocate on a GPU, and exited ones may have allocated since the reading."""
        exited = sum(each.claimed_bytes(self.gpus) for each in self.releasing if each.uuid == uuid)
        return exited + sum(self._claim(server, uuid) for server in self.servers if uuid in server.booked)

    @property
    def _unified(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus.gpus if gpu.is_unified)

    @property
    def _releasing_ram(self) -> list[ReleasingMemory]:
        unified = {gpu.uuid for gpu in self._unified}
        return [each for each in self.releasing if each.uuid in unified]

    @property
    def _ram_reserve(self) -> int:
        return max((self.gpu_limits.reserve_of(gpu, gpu.ram_bytes) for gpu in self._unified), default=0)

    @property
    def _ram_capacity(self) -> int:
        """RAM for models in total."""
        total = self.memory.total_bytes
        return self.gpu_limits.budget(self._ram_reserve, total, 0, 0)[0] if self._unified else total

    def _unified_card(self, gpu: Gpu) -> Card:
        """What is being released of it is RAM, and counted as such."""
        shared = self.shared_free()
        return Card(
            uuid=gpu.uuid,
            name=gpu.name,
            index=gpu.index,
            total_bytes=self._ram_capacity,
            usable_bytes=min(shared[CPU], shared[UNBOOKED_RAM]),
            is_busy=self.gpu_limits.is_busy(gpu.utilization_percent or 0),
            is_unified=True,
            reserve_bytes=self._ram_reserve,
            vulkan_number=gpu.vulkan_number,
        )

    def _card(self, gpu: Gpu) -> Card:
        if gpu.is_unified:
            return self._unified_card(gpu)
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
            vulkan_number=gpu.vulkan_number,
        )

    def _held_on(self, uuid: str, state: ServerState) -> int:
        ours = (server for server in self.servers if uuid in server.booked and server.state is state)
        return sum(self._released_by(server, uuid) for server in ours)

    def _claim(self, server: Server, device: str) -> int:
        """What it has allocated or will allocate that the reading still shows as free; stopping does not change it."""
        if device == CPU and is_all_shown(server, self.memory.at):
            return server.unfilled_cache_bytes(self._shown(server, CPU) or 0)
        return unseen_bytes(server, device, self._shown(server, device), self._read_at(device))

    def _released_by(self, server: Server, device: str) -> int:
        """What is usable for others once it has exited."""
        if device == LOAD_QUOTA:
            return 1
        if device == UNBOOKED_RAM:
            return _booked_ram(server)
        devices = server.placement.ram_devices if device == CPU else (device,)
        return sum(self._released_on(server, each) for each in devices)

    def _released_on(self, server: Server, device: str) -> int:
        shown = self._shown(server, device)
        if shown is None and is_all_shown(server, self._read_at(device)):
            return server.booked.get(device, 0)
        released = self._claim(server, device) + (shown or 0)
        # If max_vram limits the GPU, no more than the booking becomes usable.
        is_bounded = device not in server.placement.ram_devices and self.gpu_limits.max_vram_bytes is not None
        return min(released, server.booked.get(device, 0)) if is_bounded else released

    def _read_at(self, device: str) -> float:
        return self.memory.at if device == CPU else self.gpus.read_at(device)

    def _shown(self, server: Server, device: str) -> int | None:
        """What the reading attributes to it; None: NVML does not say."""
        if device == CPU:
            return self.memory.held_bytes.get(server.id, 0)
        return shown_bytes(self.gpus, device, server.pid)


def _booked_ram(server: Server) -> int:
    return server.placement.by_memory(server.booked)[CPU]
