"""Suspects: requests that may end the server that answers them.

A server that crashes while it answers does so because of a request (blame.py), not of its model, but which of them is
unknown. All that were in flight are suspects, known by their hash: the next time, each runs alone on its server, for
EXCLUSIVE_SECONDS at most. One that ends a server again while it runs alone is refused for an hour; one that completes
is no suspect any more. So other requests are hit once, and the model itself is not in backoff.

A suspect runs when a server of its model is empty. For one that is starving a server is closed to others until it is
empty, for HOLD_SECONDS at most. So that no client takes a model from others by sending suspects, one server of a model
at a time is held or used by one, and then, if others had to wait, none for as long: until the next server is ready,
where this one has ended. Others have at least half of the model's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling.fairness import is_starving
from app.use_cases.scheduling.load_balancing import load_of
from app.use_cases.scheduling.pool_state import READY, Awaited, PoolState, Step, Waiter, reject, update_server
from app.use_cases.scheduling.quarantine import quarantined_keys
from app.use_cases.scheduling.round_robin import by_key_in_turn
from app.use_cases.scheduling.suspicion import ExclusiveUse, Suspect

SUSPECTED_SECONDS = 3600.0
HOLD_SECONDS = 30.0  # until the server is empty
EXCLUSIVE_SECONDS = 60.0  # alone on its server; others may wait that long for it
MAX_SUSPECTS = 1024


def with_suspects(state: PoolState, server: Server, at: float) -> PoolState:
    """The state after a server ended in mid-answer: what it had in flight is suspect, or refused if it was alone."""
    in_flight = sorted(server.in_flight.items(), key=lambda each: each[0])
    hashes = {each.request_hash: ticket for ticket, each in in_flight if each.request_hash}
    was_alone = server.exclusive_ticket is not None and server.in_flight.keys() == {server.exclusive_ticket}
    known = {each: suspect for each, suspect in state.suspects.items() if suspect.until > at and each not in hashes}
    for each, ticket in hashes.items():
        earlier = state.suspects.get(each)
        is_refused = was_alone or (earlier is not None and earlier.is_refused and at < earlier.until)
        known[each] = Suspect(server.model, ticket, at + SUSPECTED_SECONDS, is_refused)
    return replace(state, suspects=dict(list(known.items())[-MAX_SUSPECTS:]))


def without_suspect(state: PoolState, request_hash: str) -> PoolState:
    """The state after a request with this hash was answered completely."""
    suspect = state.suspects.get(request_hash)
    if suspect is None or suspect.is_refused:
        return state
    return replace(state, suspects={each: other for each, other in state.suspects.items() if each != request_hash})


def without_unread(state: PoolState, ticket: int) -> PoolState:
    """The state after it turned out that a request had not been sent when its server ended."""
    return replace(state, suspects={each: other for each, other in state.suspects.items() if other.ticket != ticket})


def without_suspects_of(state: PoolState, model: str) -> PoolState:
    """The state after an order to load the model: nothing is held against its requests or keys any more."""
    suspects = {each: other for each, other in state.suspects.items() if other.model.name != model}
    return replace(state, suspects=suspects, crashes={m: known for m, known in state.crashes.items() if m != model})


def is_suspect(state: PoolState, waiter: Waiter, now: float) -> bool:
    """Whether the request must run alone: it is suspect itself, or its key is in quarantine."""
    return _suspect(state, waiter, now) is not None or waiter.key in quarantined_keys(state, waiter.model, now)


def _suspect(state: PoolState, waiter: Waiter, now: float) -> Suspect | None:
    """What is held against the request; nothing if its model's file or settings have changed since."""
    suspect = state.suspects.get(waiter.request_hash)
    is_valid = suspect is not None and suspect.until > now and suspect.model.is_served_as(waiter.model)
    return suspect if is_valid else None


def refuse_crashing(state: PoolState, now: float) -> Step:
    """Requests that have ended a server while they ran alone are refused."""
    if not state.suspects:
        return state, []
    refusals = {}
    for waiter in state.waiting:
        if (suspect := _suspect(state, waiter, now)) and suspect.is_refused:
            minutes = (suspect.until - now) / 60
            refusals[waiter.ticket] = Refusal(Reason.CRASHES_ENGINE, waiter.model.name, f"{minutes:.0f} min")
    return reject(state, refusals)


def end_exclusive_uses(state: PoolState, now: float) -> Step:
    """Servers that a suspect no longer uses, or that were closed for long enough, are open again: to everyone for as
    long as they were closed, if others wait."""
    for name, use in state.exclusive_uses.items():
        if use.open_until is None and _is_running(state, use, now):
            continue
        state = update_server(state, use.server, lambda server, use=use: _opened(server, use))  # type: ignore[misc]
        state = replace(state, exclusive_uses=_with(state.exclusive_uses, name, _over(state, name, use, now)))
    return state, []


def _is_running(state: PoolState, use: ExclusiveUse, now: float) -> bool:
    """Whether the suspect runs alone, or the server is still held for it."""
    server = state.server(use.server)
    if server is None or not server.is_up or now >= use.until:
        return False
    is_waiting = any(waiter.ticket == use.ticket for waiter in state.waiting)
    return use.ticket in server.in_flight or (is_waiting and server.state is READY)


def _opened(server: Server, use: ExclusiveUse) -> Server:
    """One that is being stopped stays closed: at its end it counts that its suspect was alone."""
    return replace(server, exclusive_ticket=None) if server.is_up and server.exclusive_ticket == use.ticket else server


def _over(state: PoolState, name: str, use: ExclusiveUse, now: float) -> ExclusiveUse | None:
    """What is left of an exclusive use: None, or the time that others get."""
    if use.open_until is not None:
        return use if now < use.open_until else None
    if not any(_is_another(state, waiter, name, now) for waiter in state.waiting):
        return None
    if not any(server.state is READY for server in state.servers_of(name)):
        return use
    return replace(use, open_until=now + (now - use.since))


def _is_another(state: PoolState, waiter: Waiter, name: str, now: float) -> bool:
    return waiter.model.name == name and waiter.awaited is Awaited.SLOT and not is_suspect(state, waiter, now)


def _with(uses: Mapping[str, ExclusiveUse], name: str, use: ExclusiveUse | None) -> Mapping[str, ExclusiveUse]:
    others = {other: each for other, each in uses.items() if other != name}
    return others if use is None else {**others, name: use}


def exclusive_use_due_times(state: PoolState) -> list[float]:
    times = [use.open_until for use in state.exclusive_uses.values() if use.open_until is not None]
    closed = {server.id for server in state.servers if server.is_up and server.exclusive_ticket is not None}
    return times + [use.until for use in state.exclusive_uses.values() if use.server in closed]


def hold_servers(state: PoolState, now: float) -> Step:
    """For each model, the least busy server is closed to all but a suspect that is starving."""
    if not state.suspects and not state.crashes:
        return state, []
    for waiter in by_key_in_turn(state.waiting, state.slot_rotation):
        name = waiter.model.name
        if waiter.awaited is not Awaited.SLOT or name in state.exclusive_uses or not is_suspect(state, waiter, now):
            continue
        servers = [server for server in state.servers_of(name) if server.is_responding]
        if servers and is_starving(state, waiter, now):
            held = replace(min(servers, key=load_of), exclusive_ticket=waiter.ticket)
            use = ExclusiveUse(held.id, waiter.ticket, now, now + HOLD_SECONDS)
            state = update_server(state, held.id, lambda _, held=held: held)  # type: ignore[misc]
            state = replace(state, exclusive_uses={**state.exclusive_uses, name: use})
    return state, []


def servers_to_be_alone_on(
    state: PoolState, waiter: Waiter, free: Sequence[Server], uses: Mapping[str, ExclusiveUse]
) -> list[Server]:
    """The servers on which a suspect may run now: the one held for it, or any empty one of `free`, those with a free
    slot."""
    if waiter.model.name not in uses:
        return [server for server in free if server.is_empty]
    servers = state.servers_of(waiter.model.name)
    return [s for s in servers if s.exclusive_ticket == waiter.ticket and s.is_responding and s.is_empty]


def with_run(
    uses: Mapping[str, ExclusiveUse], waiter: Waiter, server: Server, now: float
) -> Mapping[str, ExclusiveUse]:
    """The exclusive uses with that of this server by this suspect, which begins to run now."""
    held = uses.get(waiter.model.name)
    use = ExclusiveUse(server.id, waiter.ticket, held.since if held else now, now + EXCLUSIVE_SECONDS)
    return {**uses, waiter.model.name: use}
