"""What the memory of a GPU is used for, in parts that add up to its size."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from app.entities.gpu import Gpu
from app.entities.memory import MemoryReading
from app.entities.placement import CPU
from app.entities.server import Server
from app.use_cases.placement.releasing import shown_bytes, unseen_bytes
from app.use_cases.scheduling.pool_state import PoolState


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a GPU's memory."""

    kind: str  # model, claimed (booked by a loading server, not allocated yet), other, reserve or free
    model: str | None
    server: str | None  # its id
    bytes: int

    def as_json(self) -> dict[str, object]:
        return {"kind": self.kind, "model": self.model, "server": self.server, "bytes": self.bytes}


def gpu_segments(gpu: Gpu, pool: PoolState, visible: Collection[int]) -> list[dict[str, object]]:
    """The segments in the order of Segment.kind, whose bytes sum to `gpu.total_bytes`.

    `visible`: ids of the servers that may be named. What the others hold or have booked counts as `other`. Where NVML
    hides which process holds what, a server's part is what it reported or booked.
    """
    servers = [server for server in pool.servers if _holds_memory_of(server, gpu)]
    used = gpu.total_bytes - gpu.free_bytes
    models = list(_models(gpu, pool, [server for server in servers if server.id in visible], used))
    claims = list(_claims(gpu, pool, servers))
    claimed = [each for server, each in zip(servers, claims, strict=True) if server.id in visible]
    free = gpu.free_bytes - sum(each.bytes for each in claims)
    other = gpu.total_bytes - free - sum(each.bytes for each in (*models, *claimed))
    reserve = min(free, pool.limits.gpu_limits.reserve_of(gpu, gpu.ram_bytes))
    rest = (("other", other), ("reserve", reserve), ("free", free - reserve))
    segments = [*models, *claimed, *(Segment(kind, None, None, size) for kind, size in rest)]
    return [segment.as_json() for segment in segments if segment.bytes]


def _holds_memory_of(server: Server, gpu: Gpu) -> bool:
    return gpu.uuid in server.booked or gpu.is_unified


def _models(gpu: Gpu, pool: PoolState, servers: list[Server], used: int) -> Iterator[Segment]:
    """At most `used` bytes together: readings of the GPU and of its processes are not of the same instant."""
    for server in servers:
        size = min(used, _held_bytes(server, gpu, pool))
        used -= size
        yield Segment("model", server.model.name, str(server.id), size)


def _held_bytes(server: Server, gpu: Gpu, pool: PoolState) -> int:
    in_ram = _ram_bytes(server, pool.memory) if gpu.is_unified else 0
    shown = shown_bytes(pool.gpus, gpu.uuid, server.pid)
    if shown is not None:
        return shown + in_ram
    if not server.is_up:  # it has not been seen to hold anything
        return in_ram
    return (server.reported or server.booked).get(gpu.uuid, 0) + in_ram


def _ram_bytes(server: Server, memory: MemoryReading | None) -> int:
    """What it holds of RAM beside its GPUs."""
    return (memory.held_bytes.get(server.id, 0) if memory else 0) or (server.booked.get(CPU, 0) if server.is_up else 0)


def _claims(gpu: Gpu, pool: PoolState, servers: list[Server]) -> Iterator[Segment]:
    """Of each server, at most what is free together."""
    free = gpu.free_bytes
    for server in servers:
        shown = shown_bytes(pool.gpus, gpu.uuid, server.pid)
        size = min(free, unseen_bytes(server, gpu.uuid, shown, pool.gpus.read_at(gpu.uuid)))
        free -= size
        yield Segment("claimed", server.model.name, str(server.id), size)
