"""Memory watch: the RAM that servers hold, against what was booked for them.

One request can make an engine grow without bound: a JSON schema with a million `minItems` took a llama-server booked at
93 MiB to 23 GB. So RAM is read every WATCH_SECONDS while a server is in use, and a server far above its booking is
killed before the machine runs out:

1. one that exceeds its booking by `max_excess_memory`, not counting context checkpoints, which engines keep by design;
2. when little RAM is left, the one with the largest excess, unless that is small: it is not to blame then.

Where a GPU uses RAM as its memory, drivers differ in whether that counts as the process's own. So the first rule
permits what was booked there, too. The second does not: an engine could grow by as much unnoticed.

Loading servers are not judged here: rebook.py compares their own reports with their bookings.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.memory import MemoryReading
from app.entities.placement import CPU
from app.entities.server import Server
from app.use_cases.scheduling.effects import Effect, ReadMemory, StopReason
from app.use_cases.scheduling.pool_state import PoolState, ServerEnding, Step, note_ending, note_failure, stop_server

MIB, GIB = 1024**2, 1024**3
WATCH_SECONDS = 0.5  # that schema makes an engine grow by about 0.5 GB in this time
# An engine may go on with a request whose client has disconnected, and not count it as a busy slot: a grammar is built
# before the request has one.
WATCH_AFTER_USE_SECONDS = 60.0
LOW_BYTES, LOW_SHARE = GIB, 1 / 16  # of RAM: the smaller of both is little
MIN_EXCESS_BYTES = 512 * MIB


def watch_due_at(state: PoolState) -> float | None:
    """When to read RAM for the watch (monotonic seconds); None: no server is in use, or a reading is under way."""
    if state.limits.max_excess_memory_bytes is None or state.memory is None or state.memory_requested_at is not None:
        return None
    due = max(state.memory.at, state.memory_failed_at) + WATCH_SECONDS
    return due if any(_is_watched(server, due) for server in state.servers) else None


def watch_memory(state: PoolState, now: float) -> Step:
    """Kill servers that hold far more RAM than was booked, and request the next reading when it is due."""
    state, effects = _kill_oversized(state, now)
    due = watch_due_at(state)
    if due is None or now < due:
        return state, effects
    return replace(state, memory_requested_at=now), [*effects, ReadMemory()]


def has_outgrown_booking(state: PoolState, server: Server) -> bool:
    """Whether it held far more RAM than was booked when that was last read, or more than it may: a request made it
    grow, whoever else has used up the machine's RAM."""
    if state.memory is None:
        return False
    limit = state.limits.max_excess_memory_bytes
    most = MIN_EXCESS_BYTES if limit is None else min(limit, MIN_EXCESS_BYTES)
    return _excess(server, state.memory) > most + _permitted_bytes(state, server)


def _is_watched(server: Server, at: float) -> bool:
    return server.is_up and bool(server.leases or at <= server.last_used + WATCH_AFTER_USE_SECONDS)


def _kill_oversized(state: PoolState, now: float) -> Step:
    effects: list[Effect] = []
    if state.limits.max_excess_memory_bytes is None or state.memory is None:
        return state, effects
    for server, why in _oversized(state, state.memory):
        detail = _detail(server, state.memory, why)
        if not state.has_another(server):
            state = note_failure(state, server, detail, now)
        ending = ServerEnding(detail, is_due_to_request=has_outgrown_booking(state, server))
        state, orders = stop_server(note_ending(state, server, ending), server, StopReason.MEMORY_EXCEEDED, detail)
        effects += orders
    return state, effects


def _oversized(state: PoolState, memory: MemoryReading) -> list[tuple[Server, str]]:
    """The servers to kill, and the rule that each of them breaks."""
    limit = state.limits.max_excess_memory_bytes
    assert limit is not None
    servers = [server for server in state.servers if server.is_up and _excess(server, memory) > 0]
    above = [server for server in servers if _excess(server, memory) > limit + _permitted_bytes(state, server)]
    if above:
        return [(server, f"scheduling.max_excess_memory is {limit / MIB:.0f} MiB") for server in above]
    if not servers or not _is_low(state, memory):
        return []
    largest = max(servers, key=lambda server: _excess(server, memory))
    if _excess(largest, memory) <= MIN_EXCESS_BYTES:
        return []
    return [(largest, f"only {memory.available_bytes / MIB:.0f} MiB of the machine's RAM were left")]


def _is_low(state: PoolState, memory: MemoryReading) -> bool:
    """Whether little RAM is left. Not known while the last server that was killed still holds what it had."""
    is_releasing = memory.at <= state.last_exit_at or any(server.id in state.endings for server in state.servers)
    return not is_releasing and memory.available_bytes < min(LOW_BYTES, LOW_SHARE * memory.total_bytes)


def _excess(server: Server, memory: MemoryReading) -> int:
    return memory.held_bytes.get(server.id, 0) - server.booked.get(CPU, 0)


def _permitted_bytes(state: PoolState, server: Server) -> int:
    """Beyond the booking of RAM: context checkpoints, and a GPU's memory where that is RAM."""
    request = state.placement_requests.get(server.id)
    checkpoints = request.checkpoint_bytes if request else 0
    return checkpoints + sum(server.booked.get(uuid, 0) for uuid in server.placement.unified)


def _detail(server: Server, memory: MemoryReading, why: str) -> str:
    held, booked = memory.held_bytes[server.id] / MIB, server.booked.get(CPU, 0) / MIB
    return (
        f"{server.model.name}: its llama-server was stopped because it held {held:.0f} MiB of RAM, "
        f"{booked:.0f} MiB were booked, and {why}"
    )
