"""Other processes: what they hold of each GPU and of RAM, and since when.

`ctx_size: auto` gives way to memory that others have held for a quarter of `max_wait_seconds`, not to what comes and
goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from app.entities.frozen import replace
from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.memory import MemoryReading
from app.entities.placement import CPU, Card
from app.entities.server import Server
from app.use_cases.placement.releasing import shown_bytes
from app.use_cases.scheduling.held_levels import standing_bytes, with_reading
from app.use_cases.scheduling.pool_state import READY, PoolState

PATIENCE_FRACTION = 0.25  # of max_wait_seconds
# By how much a server may exceed its booking where NVML does not show its memory: 256 MiB, or a twentieth.
UNSEEN_GROWTH_BYTES, UNSEEN_GROWTH_DIVISOR = 256 * 1024**2, 20


def with_gpu_reading(state: PoolState, gpus: GpuSnapshot) -> PoolState:
    """The state with what this reading shows others to hold. A GPU that is missing is held as a whole.

    Of GPUs whose memory is RAM the readings of RAM tell.
    """
    known = {**state.known_gpus, **{gpu.uuid: gpu for gpu in gpus.gpus if not gpu.is_unified}}
    held = dict(state.held_by_others)
    for uuid, gpu in known.items():
        size = _held_on(state, gpus, gpu) if gpu in gpus.gpus else gpu.total_bytes
        held[uuid] = with_reading(held.get(uuid, ()), gpus.at, size, patience_seconds(state))
    return replace(state, known_gpus=known, held_by_others=held)


def with_memory_reading(state: PoolState, memory: MemoryReading) -> PoolState:
    """The state with what this reading shows others to hold of RAM."""
    ours = sum(_ram_of(server, memory) for server in state.servers)
    size = memory.total_bytes - memory.available_bytes - ours
    levels = with_reading(state.held_by_others.get(CPU, ()), memory.at, size, patience_seconds(state))
    return replace(state, held_by_others={**state.held_by_others, CPU: levels})


def taken_bytes(state: PoolState, now: float) -> dict[str, int]:
    """By how much others reduce, for long, what models may use: by GPU's UUID, and of RAM (CPU)."""
    seconds = patience_seconds(state)
    standing = {what: standing_bytes(levels, now, seconds) for what, levels in state.held_by_others.items()}
    taken = {CPU: standing.get(CPU, 0)}
    for uuid, gpu in state.known_gpus.items():
        capacity, usable = _budget(state, gpu, standing.get(uuid, 0))
        taken[uuid] = capacity - max(0, usable)
    return {what: size for what, size in taken.items() if size}


def absent_cards(state: PoolState, present: Iterable[Card]) -> tuple[Card, ...]:
    """The GPUs that models could use before, and cannot now. None if it is the engine that cannot use them."""
    known, uuids = state.known_gpus if state.gpus.has_engine_for_gpus else {}, {card.uuid for card in present}
    return tuple(
        Card(uuid, gpu.name, gpu.index, _budget(state, gpu, 0)[0], usable_bytes=0, is_mig=gpu.is_mig)
        for uuid, gpu in known.items()
        if uuid not in uuids
    )


def _budget(state: PoolState, gpu: Gpu, held_bytes: int) -> tuple[int, int]:
    """(capacity, usable) bytes of the GPU while others hold so much, without our servers."""
    limits = state.limits.gpu_limits
    return limits.budget(limits.reserve_of(gpu), gpu.total_bytes, gpu.total_bytes - held_bytes, 0)


def patience_seconds(state: PoolState) -> float:
    return PATIENCE_FRACTION * state.limits.max_wait_seconds


def next_standing_at(state: PoolState, now: float) -> float:
    """When more will have been held for long than now; infinity: never, as it is."""
    seconds = patience_seconds(state)
    times = (level.since + seconds for levels in state.held_by_others.values() for level in levels)
    return min((at for at in times if at > now), default=inf)


def _held_on(state: PoolState, gpus: GpuSnapshot, gpu: Gpu) -> int:
    ours = sum(_gpu_bytes_of(server, gpus, gpu.uuid) for server in state.servers if gpu.uuid in server.booked)
    releasing = (each for each in state.releasing if each.uuid == gpu.uuid)
    ours += sum(each.outstanding_bytes(gpus, state.servers) for each in releasing)
    return gpu.total_bytes - gpu.free_bytes - ours


def _gpu_bytes_of(server: Server, gpus: GpuSnapshot, uuid: str) -> int:
    """What a server of ours holds; rather too much, so that none of it is taken for another process's."""
    shown, booked = shown_bytes(gpus, uuid, server.pid), server.booked[uuid]
    is_settled = server.state is READY and server.ready_at is not None and gpus.at > server.ready_at
    if shown is not None and is_settled:
        return shown
    return max(shown or 0, booked + max(UNSEEN_GROWTH_BYTES, booked // UNSEEN_GROWTH_DIVISOR))


def _ram_of(server: Server, memory: MemoryReading) -> int:
    held, booked = memory.held_bytes.get(server.id, 0), server.placement.by_memory(server.booked)[CPU]
    is_shown = server.state is READY and server.id in memory.held_bytes and not server.placement.unified
    return held if is_shown else max(held, booked)
