"""The file that `plan --gpus` reads: the GPUs of a machine, the servers on them, and its RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from app.entities.placement import CPU, UNBOOKED_RAM, Card, GpuLimits, Policy, Resident
from app.entities.server import ServerState
from app.use_cases.placement.ledger import ENDING_STATES
from app.use_cases.placement.world import World


class InvalidGpusFile(Exception):
    """The file cannot be read or is not valid; the message is one line."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Gpu(_Strict):
    uuid: str = Field(min_length=1)
    name: str = "GPU"
    total_bytes: NonNegativeInt
    free_bytes: NonNegativeInt
    utilization_percent: float = Field(0.0, ge=0, le=100)
    drives_display: bool = False
    unified: bool = False


class _Server(_Strict):
    model: str
    state: ServerState = ServerState.READY
    busy: bool = False
    idle_seconds: NonNegativeFloat = 0.0
    bytes: dict[str, NonNegativeInt] = {}


class _File(_Strict):
    gpus: list[_Gpu]
    servers: list[_Server] = []
    ram_total_bytes: NonNegativeInt | None = None
    ram_free_bytes: NonNegativeInt | None = None

    @property
    def unified(self) -> set[str]:
        """UUIDs of the GPUs that use RAM as their memory."""
        return {gpu.uuid for gpu in self.gpus if gpu.unified}

    @property
    def alive(self) -> list[_Server]:
        return [server for server in self.servers if server.state not in (ServerState.STOPPED, ServerState.FAILED)]

    def held(self, *states: ServerState) -> dict[str, int]:
        """Bytes by resource that the servers in these states hold together; without states, all of them."""
        total: dict[str, int] = {}
        for server in self.alive:
            for what, size in self.held_by(server).items() if not states or server.state in states else ():
                total[what] = total.get(what, 0) + size
        return total

    def held_by(self, server: _Server) -> dict[str, int]:
        own_memory = {uuid: size for uuid, size in server.bytes.items() if uuid not in self.unified}
        in_ram = sum(server.bytes.values()) - sum(own_memory.values())
        return own_memory | {CPU: in_ram, UNBOOKED_RAM: in_ram}


@dataclass(frozen=True, slots=True)
class _Ram:
    """Bytes for models, as the ledger computes them. `free` and `totals` are by shared resource; one without any figure
    is left out: it is not limited."""

    free: dict[str, int]
    totals: dict[str, int]
    reserve_bytes: int  # of GPUs that use RAM as their memory


def read_world(file: Path, gpu_limits: GpuLimits, policy: Policy) -> World:
    """The machine in the file, with the settings' limits applied to each GPU. Raises InvalidGpusFile."""
    content = _read(file)
    ram = _ram(content, gpu_limits)
    residents = tuple(
        Resident(
            *(number, server.model, content.held_by(server), server.busy, server.idle_seconds),
            is_loading=server.state is ServerState.STARTING,
        )
        for number, server in enumerate(content.alive)
        if server.state not in ENDING_STATES
    )
    return World(
        cards=tuple(_card(index, gpu, content, gpu_limits, ram) for index, gpu in enumerate(content.gpus)),
        residents=residents,
        shared=ram.free,
        releasing=content.held(ServerState.STOPPING),
        draining=content.held(ServerState.DRAINING),
        totals=ram.totals,
        policy=policy,
    )


def _read(file: Path) -> _File:
    try:
        content = _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidGpusFile(error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidGpusFile(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))) from error
    uuids = {gpu.uuid for gpu in content.gpus}
    if CPU in uuids:
        raise InvalidGpusFile(f"{CPU} is not a valid GPU uuid")
    if len(uuids) != len(content.gpus):
        raise InvalidGpusFile("two GPUs have the same uuid")
    if unknown := sorted({uuid for server in content.servers for uuid in server.bytes} - uuids):
        raise InvalidGpusFile(f"a server has memory on {unknown[0]}, which is not one of the GPUs")
    if (content.ram_free_bytes or 0) > (inf if content.ram_total_bytes is None else content.ram_total_bytes):
        raise InvalidGpusFile("ram_free_bytes is more than ram_total_bytes")
    return content


def _card(index: int, gpu: _Gpu, content: _File, gpu_limits: GpuLimits, ram: _Ram) -> Card:
    card = replace(_unmeasured(index, gpu), is_busy=gpu_limits.is_busy(gpu.utilization_percent))
    if gpu.unified:
        usable = min(ram.free.values())
        return replace(card, total_bytes=ram.totals[CPU], usable_bytes=usable, reserve_bytes=ram.reserve_bytes)
    held, reserve = content.held().get(gpu.uuid, 0), gpu_limits.reserve_of(card)
    limit, usable = gpu_limits.budget(reserve, gpu.total_bytes, gpu.free_bytes, held)
    return replace(
        card,
        total_bytes=limit,
        usable_bytes=usable,
        releasing_bytes=content.held(ServerState.STOPPING).get(gpu.uuid, 0),
        draining_bytes=content.held(ServerState.DRAINING).get(gpu.uuid, 0),
        reserve_bytes=reserve,
    )


def _unmeasured(index: int, gpu: _Gpu) -> Card:
    return Card(gpu.uuid, gpu.name, index, 0, 0, is_unified=gpu.unified, drives_display=gpu.drives_display)


def _ram(content: _File, gpu_limits: GpuLimits) -> _Ram:
    unified = [(index, gpu) for index, gpu in enumerate(content.gpus) if gpu.unified]
    totals = [content.ram_total_bytes, *(gpu.total_bytes for _, gpu in unified)]
    total = min((size for size in totals if size is not None), default=None)
    free = content.ram_total_bytes if content.ram_free_bytes is None else content.ram_free_bytes
    available = min(
        (size for size in (free, *(gpu.free_bytes for _, gpu in unified)) if size is not None), default=None
    )
    reserve = max((gpu_limits.reserve_of(_unmeasured(*each), total or 0) for each in unified), default=0)
    shared = {} if available is None else {CPU: available - reserve}
    if total is None:
        return _Ram(shared, {}, reserve)
    capacity = gpu_limits.budget(reserve, total, 0, 0)[0] if unified else total
    shared[UNBOOKED_RAM] = capacity - content.held().get(UNBOOKED_RAM, 0)
    return _Ram(shared, {CPU: capacity, UNBOOKED_RAM: capacity}, reserve)
