"""The file that `plan --gpus` reads: the GPUs of a machine, the servers on them, and its RAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    unified: bool = False  # its sizes are the machine's RAM


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
    def ram_totals(self) -> dict[str, int]:
        return {} if self.ram_total_bytes is None else dict.fromkeys((CPU, UNBOOKED_RAM), self.ram_total_bytes)

    @property
    def free_ram(self) -> dict[str, int]:
        """Without any figure nothing: the RAM is not limited."""
        return self.ram_totals if self.ram_free_bytes is None else {**self.ram_totals, CPU: self.ram_free_bytes}


def read_world(file: Path, gpu_limits: GpuLimits, policy: Policy) -> World:
    """The machine in the file, with the settings' limits applied to each GPU. Raises InvalidGpusFile."""
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
    unified = [gpu for gpu in content.gpus if gpu.unified]
    if len(unified) > 1 or (unified and content.ram_totals):
        raise InvalidGpusFile("a unified GPU's total_bytes and free_bytes are the machine's RAM: give them once")
    if content.free_ram.get(CPU, 0) > content.ram_totals.get(CPU, inf):
        raise InvalidGpusFile("ram_free_bytes is more than ram_total_bytes")
    alive = [server for server in content.servers if server.state not in (ServerState.STOPPED, ServerState.FAILED)]
    cards = tuple(_card(index, gpu, alive, gpu_limits) for index, gpu in enumerate(content.gpus))
    residents = tuple(
        Resident(
            *(number, server.model, server.bytes, server.busy, server.idle_seconds),
            is_loading=server.state is ServerState.STARTING,
        )
        for number, server in enumerate(alive)
        if server.state not in ENDING_STATES
    )
    world = World(cards, residents, content.free_ram, totals=content.ram_totals, policy=policy)
    return _with_unified(world, next(card for card in cards if card.is_unified), alive) if unified else world


def _with_unified(world: World, card: Card, servers: list[_Server]) -> World:
    """What the servers hold on this GPU, and what is free of it, is RAM."""
    booked = sum(server.bytes.get(card.uuid, 0) for server in servers)
    return replace(
        world,
        residents=tuple(replace(each, held_bytes=_in_ram(each.held_bytes, card.uuid)) for each in world.residents),
        shared={CPU: card.usable_bytes, UNBOOKED_RAM: card.total_bytes - booked},
        releasing=dict.fromkeys((CPU, UNBOOKED_RAM), card.releasing_bytes),
        draining=dict.fromkeys((CPU, UNBOOKED_RAM), card.draining_bytes),
        totals=dict.fromkeys((CPU, UNBOOKED_RAM), card.total_bytes),
    )


def _in_ram(held_bytes: Mapping[str, int], uuid: str) -> dict[str, int]:
    in_ram = held_bytes.get(uuid, 0)
    return {each: size for each, size in held_bytes.items() if each != uuid} | {CPU: in_ram, UNBOOKED_RAM: in_ram}


def _card(index: int, gpu: _Gpu, servers: list[_Server], gpu_limits: GpuLimits) -> Card:
    def used_bytes(*states: ServerState) -> int:
        return sum(server.bytes.get(gpu.uuid, 0) for server in servers if not states or server.state in states)

    is_busy = gpu_limits.is_busy(gpu.utilization_percent)
    kind = {"drives_display": gpu.drives_display, "is_unified": gpu.unified}
    card = Card(gpu.uuid, gpu.name, index, 0, 0, is_busy=is_busy, **kind)
    reserve = gpu_limits.reserve_of(card, gpu.total_bytes if gpu.unified else 0)
    limit, usable = gpu_limits.budget(reserve, gpu.total_bytes, gpu.free_bytes, used_bytes())
    return replace(
        card,
        total_bytes=limit,
        usable_bytes=usable,
        releasing_bytes=used_bytes(ServerState.STOPPING),
        draining_bytes=used_bytes(ServerState.DRAINING),
        reserve_bytes=reserve,
    )
