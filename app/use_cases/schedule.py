"""The heart: record, then settle.

`step` writes an event into a new state, then settles: a fixed row of passes looks at the whole state, whatever
the event was, and orders what is due. Each pass decides one thing, so no two branches can disagree, and a pass
that finds nothing to do changes nothing: settling twice is settling once. Nothing here reads a clock, waits or
does I/O: time comes with the events, readings come as events, orders leave as effects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases import events as ev
from app.use_cases.allocate import NoFit, held_bytes, place
from app.use_cases.estimate import estimate_memory
from app.use_cases.events import CountSlots, Effect, Event, Grant, ReadMemory, Refuse, Spawn, Stop

STARTING, READY, DRAINING, STOPPING = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.DRAINING,
    ServerState.STOPPING,
)

MAX_READING_AGE_SECONDS = 1.0  # strangers come and go


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that decide; see app/settings.py for what each means."""

    max_waiting: int = 256
    max_waiting_per_model: int = 128
    ttl_seconds: float = 900.0
    stall_timeout_seconds: float = 300.0
    notice_seconds: float = 5.0  # what the engine may take to see that a client of a stream has gone
    notice_in_silence_seconds: float = 5.0  # the same while it has nothing to write


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue."""

    ticket: int
    model: Model
    since: float
    give_up_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """How a model's last start ended; forgotten when the next one succeeds."""

    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class PoolState:
    """All the scheduler knows. Replaced whole by `step`; anyone may keep and read an old one."""

    limits: Limits = Limits()
    servers: tuple[Server, ...] = ()  # those with a process or about to have one, oldest first
    waiting: tuple[Waiting, ...] = ()  # oldest first
    memory: MemoryReading | None = None
    memory_asked_at: float | None = None  # a reading is on its way
    last_exit_at: float = float("-inf")  # a reading taken before this still counts bytes that are back
    failures: Mapping[str, Failure] = field(default_factory=dict)  # by model name
    draining: bool = False
    closing: bool = False
    next_server: int = 1

    def server(self, server_id: int) -> Server | None:
        return next((s for s in self.servers if s.id == server_id), None)

    def server_of(self, model: str) -> Server | None:
        """The one server of a model, in whatever state."""
        return next((s for s in self.servers if s.model.name == model), None)


Step = tuple[PoolState, list[Effect]]


def step(state: PoolState, event: Event) -> Step:
    """The state after `event`, and what to do about it, in order."""
    state, effects = _record(state, event)
    for settle in _PASSES:
        state, more = settle(state, event.at)
        effects += more
    return state, effects


def due_at(state: PoolState) -> float | None:
    """The time at which something is due by the clock alone, so that a Tick is wanted then.

    The passes compare with these very sums: a difference may round to the other side, and the Tick would come again.
    """
    times = [w.give_up_at for w in state.waiting]
    times += [s.progress_at + state.limits.stall_timeout_seconds for s in state.servers if s.state is STARTING]
    times += [s.last_used + state.limits.ttl_seconds for s in state.servers if s.is_idle]
    times += [s.check_at for s in state.servers if s.check_at is not None]
    return min(times, default=None)


# --- record: write the fact down, decide nothing --------------------------------------------------


def _record(state: PoolState, event: Event) -> Step:
    match event:
        case ev.Acquire(ticket, model, at, give_up_at):
            return replace(state, waiting=(*state.waiting, Waiting(ticket, model, at, give_up_at))), []
        case ev.Cancel(ticket):
            return _turn_away(state, {ticket: Reason.CLIENT_LEFT})
        case ev.Release():
            return _released(state, event), []
        case ev.Spawned(server_id, pid):
            return _changed(state, server_id, lambda s: replace(s, pid=pid)), []
        case ev.Progress(server_id, at):
            return _changed(state, server_id, lambda s: replace(s, progress_at=at)), []
        case ev.Ready(server_id, port, at):
            return _became_ready(state, server_id, port, at), []
        case ev.SlotsCounted():
            return _slots_counted(state, event)
        case ev.Exited():
            return _exited(state, event)
        case ev.MemoryRead(memory):
            return replace(state, memory=memory, memory_asked_at=None), []
        case ev.ReadingFailed(detail):
            return _without_a_reading(state, detail)
        case ev.Drain():
            return replace(state, draining=True), []
        case ev.Close():
            return replace(state, draining=True, closing=True), []
        case ev.Tick():
            return state, []


def _changed(state: PoolState, server_id: int, change: Callable[[Server], Server]) -> PoolState:
    return replace(state, servers=tuple(change(s) if s.id == server_id else s for s in state.servers))


def _released(state: PoolState, event: ev.Release) -> PoolState:
    holder = next((s for s in state.servers if event.ticket in s.leases), None)
    if holder is None:  # its server died first
        return state
    freed = replace(holder, leases=holder.leases - {event.ticket}, last_used=event.at)
    if event.ending is not ev.Ending.COMPLETE:
        check_at = event.at + _notice_seconds(state.limits, event.ending)
        freed = replace(freed, left_behind=holder.left_behind + 1, check_at=min(check_at, holder.check_at or check_at))
    return _changed(state, holder.id, lambda _: freed)


def _notice_seconds(limits: Limits, ending: ev.Ending) -> float:
    return limits.notice_in_silence_seconds if ending is ev.Ending.CUT_IN_SILENCE else limits.notice_seconds


def _slots_counted(state: PoolState, event: ev.SlotsCounted) -> Step:
    """Slots are free when the engine says so. One that nobody uses and that still generates is ended: the only way
    to stop some engines. The count must not be older than the last request's end."""
    server = state.server(event.server)
    if server is None or not server.left_behind:
        return state, []
    if event.busy is not None and event.busy <= len(server.leases):
        return _changed(state, server.id, lambda s: replace(s, left_behind=0, check_at=None)), []
    if event.busy is not None and server.is_idle and event.asked_at > server.last_used:
        return _stop(state, server, event.at, "still generating for a client that left")
    again_at = event.at + state.limits.notice_seconds
    return _changed(state, server.id, lambda s: replace(s, check_at=again_at)), []


def _became_ready(state: PoolState, server_id: int, port: int, at: float) -> PoolState:
    server = state.server(server_id)
    if server is None or server.state is not STARTING:  # told to stop while the news was on its way
        return state
    failures = {name: failure for name, failure in state.failures.items() if name != server.model.name}
    state = _changed(state, server_id, lambda s: replace(s.moved(READY, at), port=port, ready_at=at, last_used=at))
    return replace(state, failures=failures)


def _exited(state: PoolState, event: ev.Exited) -> Step:
    server = state.server(event.server)
    assert server is not None, f"server {event.server} exited twice"
    ended = server.moved(ServerState.STOPPED if server.state is STOPPING else ServerState.FAILED, event.at)
    state = replace(
        state,
        servers=tuple(s for s in state.servers if s.id != server.id),
        last_exit_at=event.at,
    )
    if ended.state is ServerState.STOPPED:
        return state, []
    failures = {**state.failures, server.model.name: Failure(event.detail, event.at)}
    state = replace(state, failures=failures)
    if server.state is not STARTING:
        return state, []
    # Whoever waits for this load learns what became of it; a later request may try again.
    reason = Reason.SPAWN_FAILED if event.could_not_spawn else Reason.LOAD_FAILED
    return _turn_away_model(state, server.model.name, reason, event.detail)


def _without_a_reading(state: PoolState, detail: str) -> Step:
    """Nothing can be placed: those who would need a new server are told, the others wait on."""
    effects: list[Effect] = []
    state = replace(state, memory_asked_at=None)
    for name in dict.fromkeys(w.model.name for w in state.waiting):
        if state.server_of(name) is None:
            state, refusals = _turn_away_model(state, name, Reason.SPAWN_FAILED, detail)
            effects += refusals
    return state, effects


# --- settle: one look at the whole state -------------------------------------------------------------


def _give_up(state: PoolState, now: float) -> Step:
    """Waits end with the drain, or at their own time limit."""
    if state.draining:
        return _turn_away(state, {w.ticket: Reason.DRAINING for w in state.waiting})
    return _turn_away(state, {w.ticket: Reason.WAIT_TIMEOUT for w in state.waiting if w.give_up_at <= now})


def _resume(state: PoolState, now: float) -> Step:
    """Servers drained for somebody who has left since take requests again."""
    if state.draining or any(state.server_of(w.model.name) is None for w in state.waiting):
        return state, []
    for server in state.servers:
        if server.state is DRAINING:
            state = _changed(state, server.id, lambda s: s.moved(READY, now))
    return state, []


def _grant(state: PoolState, now: float) -> Step:
    """Free slots of ready servers go to those who wait for them, oldest first."""
    free = {s.model.name: s for s in state.servers if s.has_free_slot}
    granted: dict[int, Server] = {}
    for waiting in state.waiting:
        server = free.get(waiting.model.name)
        if server is not None and server.has_free_slot:
            server = replace(server, leases=server.leases | {waiting.ticket})
            free[waiting.model.name] = granted[waiting.ticket] = server
    if not granted:
        return state, []
    state = replace(
        state,
        servers=tuple(free.get(s.model.name, s) for s in state.servers),
        waiting=tuple(w for w in state.waiting if w.ticket not in granted),
    )
    return state, [Grant(ticket, server.id) for ticket, server in granted.items()]


def _bound_the_queue(state: PoolState, now: float) -> Step:
    """The newest beyond the limits are turned away; who got a slot at once was never in the queue."""
    too_many: dict[int, Reason] = {}
    places: Counter[str] = Counter()
    for waiting in state.waiting:
        if places.total() >= state.limits.max_waiting:
            too_many[waiting.ticket] = Reason.OVERLOADED
        elif places[waiting.model.name] >= state.limits.max_waiting_per_model:
            too_many[waiting.ticket] = Reason.QUEUE_FULL
        else:
            places[waiting.model.name] += 1
    return _turn_away(state, too_many)


def _stop_the_stalled(state: PoolState, now: float) -> Step:
    """A load that shows no sign of life for too long is ended; a slow one that moves never is."""
    effects: list[Effect] = []
    limit = state.limits.stall_timeout_seconds
    for server in state.servers:
        if server.state is STARTING and now >= server.progress_at + limit:
            detail = f"{server.model.name}: no progress for {limit:g} s while loading"
            state, refusals = _turn_away_model(state, server.model.name, Reason.LOAD_TIMEOUT, detail)
            state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
            state, stop = _stop(state, server, now, "load stalled")
            effects += [*refusals, *stop]
    return state, effects


def _stop_the_idle(state: PoolState, now: float) -> Step:
    """What nobody has asked for in `ttl_seconds` goes; in a drain, what nobody is using."""
    effects: list[Effect] = []
    for server in state.servers:
        expired = server.is_idle and now >= server.last_used + state.limits.ttl_seconds
        if expired or (state.draining and server.is_idle):
            state, stop = _stop(state, server, now, "idle" if expired else "service draining")
            effects += stop
    return state, effects


def _stop_the_drained(state: PoolState, now: float) -> Step:
    """A draining server goes with its last lease; closing takes everything, leases or not."""
    effects: list[Effect] = []
    for server in state.servers:
        drained = server.state is DRAINING and not server.leases
        unwanted = state.draining and server.state is STARTING
        closed = state.closing and server.state is not STOPPING
        if drained or unwanted or closed:
            state, stop = _stop(state, server, now, "drained" if drained else "service draining")
            effects += stop
    return state, effects


def _make_room(state: PoolState, now: float) -> Step:
    """Loads start in the order of the queue; one that has no room yet holds back the loads behind it."""
    effects: list[Effect] = []
    spoken_for: set[str] = set()  # models that older requests wait for
    for waiting in state.waiting:
        if state.server_of(waiting.model.name) is not None:
            spoken_for.add(waiting.model.name)
            continue  # loading for it already, busy, or on its way out: not up twice
        if not _reading_is_fresh(state, waiting, now):
            return _ask_for_a_reading(state, now, effects)
        assert state.memory is not None
        no_fit = place(estimate_memory(waiting.model), state.memory, state.servers)
        if no_fit is None:
            state, spawn = _spawn(state, waiting.model, now)
            effects += spawn
            continue
        state, more, decided = _free_some(state, waiting, no_fit, spoken_for, now)
        effects += more
        if not decided:
            break
    return state, effects


def _check_the_abandoned(state: PoolState, now: float) -> Step:
    """A server that a client left in mid-answer is asked, after a while, how many of its slots are busy."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.check_at is not None and now >= server.check_at:
            state = _changed(state, server.id, lambda s: replace(s, check_at=None))
            effects.append(CountSlots(server.id))
    return state, effects


_PASSES = (
    _give_up,
    _resume,
    _grant,
    _bound_the_queue,
    _stop_the_stalled,
    _stop_the_idle,
    _stop_the_drained,
    _check_the_abandoned,
    _make_room,
)


# --- making room ------------------------------------------------------------------------------------


def _reading_is_fresh(state: PoolState, waiting: Waiting, now: float) -> bool:
    """Taken since the request came, since bytes last came back, and just now: no start on stale numbers."""
    youngest_fact = max(waiting.since, state.last_exit_at, now - MAX_READING_AGE_SECONDS)
    return state.memory is not None and state.memory.at >= youngest_fact


def _ask_for_a_reading(state: PoolState, now: float, effects: list[Effect]) -> Step:
    if state.memory_asked_at is None:
        state = replace(state, memory_asked_at=now)
        effects.append(ReadMemory())
    return state, effects


def _spawn(state: PoolState, model: Model, now: float) -> Step:
    server = Server(
        id=state.next_server,
        model=model,
        expected_bytes=estimate_memory(model),
        since=now,
        last_used=now,
        progress_at=now,
    )
    return replace(state, servers=(*state.servers, server), next_server=server.id + 1), [Spawn(server)]


def _free_some(
    state: PoolState, waiting: Waiting, no_fit: NoFit, spoken_for: set[str], now: float
) -> tuple[PoolState, list[Effect], bool]:
    """Stop or drain the servers that have to go for `waiting`. True when its request was refused instead.

    Bytes that are leaving are neither free nor a reason to stop another server: they are waited for first. Idle
    servers go before busy ones, the longest unused first. A busy server is never cut: it takes nothing new
    and goes with its last lease, so the oldest request in the queue cannot starve behind a busy model. One that
    older requests wait for, or that is still loading, serves those first.
    """
    going = {s.id for s in state.servers if s.state in (STOPPING, DRAINING)}
    order = sorted((s for s in state.servers if s.id not in going), key=_value)
    while not _fits_without(state, going, no_fit.needed_bytes):
        if not order:
            if any(s.state is STARTING for s in state.servers):
                return state, [], False  # what is ours is in the way for now: once it is ready it can be stopped
            refused, refusals = _refuse_for_room(state, waiting, no_fit)
            return refused, refusals, True
        going.add(order.pop(0).id)
    return *_send_away(state, going, spoken_for, waiting.model.name, now), False


def _send_away(state: PoolState, going: set[int], spoken_for: set[str], wanted: str, now: float) -> Step:
    effects: list[Effect] = []
    for server in state.servers:
        if server.id not in going or server.state is not READY:
            continue
        if server.is_idle:
            state, stop = _stop(state, server, now, f"room for {wanted}")
            effects += stop
        elif server.model.name not in spoken_for:
            state = _changed(state, server.id, lambda s: s.moved(DRAINING, now))
    return state, effects


def _value(server: Server) -> tuple[bool, bool, float]:
    """Sort key: what is lost by stopping a server. Idle before busy before loading, longest unused first."""
    return (server.state is STARTING, not server.is_idle, server.last_used)


def _fits_without(state: PoolState, going: set[int], needed_bytes: int) -> bool:
    """Whether the bytes would fit once the servers `going` were gone and their bytes back."""
    assert state.memory is not None
    staying = [s for s in state.servers if s.id not in going]
    back = sum(held_bytes(s, state.memory) for s in state.servers if s.id in going)
    return place(needed_bytes, state.memory, staying, back) is None


def _refuse_for_room(state: PoolState, waiting: Waiting, no_fit: NoFit) -> Step:
    """Even with all of ours gone there is no room: for now if others hold it, for ever if the machine is too small."""
    reason = Reason.INSUFFICIENT_MEMORY if no_fit.ever else Reason.DOES_NOT_FIT
    assert state.memory is not None
    refusal = Refusal(
        reason,
        waiting.model.name,
        needed_bytes=no_fit.needed_bytes,
        usable_bytes=state.memory.available_bytes if no_fit.ever else no_fit.total_bytes,
    )
    same = [w for w in state.waiting if w.model.name == waiting.model.name]
    state = replace(state, waiting=tuple(w for w in state.waiting if w not in same))
    return state, [Refuse(w.ticket, refusal) for w in same]


# --- small moves -------------------------------------------------------------------------------------


def _stop(state: PoolState, server: Server, now: float, why: str) -> Step:
    return _changed(state, server.id, lambda s: s.moved(STOPPING, now)), [Stop(server.id, why)]


def _turn_away(state: PoolState, reasons: Mapping[int, Reason]) -> Step:
    """Refuse the waiting requests named by ticket."""
    if not reasons:
        return state, []
    leaving = [w for w in state.waiting if w.ticket in reasons]
    effects: list[Effect] = [Refuse(w.ticket, Refusal(reasons[w.ticket], w.model.name)) for w in leaving]
    return replace(state, waiting=tuple(w for w in state.waiting if w.ticket not in reasons)), effects


def _turn_away_model(state: PoolState, model: str, reason: Reason, detail: str) -> Step:
    """Refuse everyone who waits for a model."""
    leaving = [w for w in state.waiting if w.model.name == model]
    effects: list[Effect] = [Refuse(w.ticket, Refusal(reason, model, detail)) for w in leaving]
    return replace(state, waiting=tuple(w for w in state.waiting if w.model.name != model)), effects
