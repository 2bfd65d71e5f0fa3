"""Suspects: requests that may end the server that answers them.

A server that dies while it answers does so because of a request, not of its model, but which of them is unknown. All
that were in flight are suspects, known by their hash: the next time, each runs alone on its server, for
EXCLUSIVE_SECONDS at most. One that ends a server again while it runs alone is refused for an hour; one that completes
is no suspect any more. So other requests are hit once, and the model itself is not in backoff.

A suspect runs when a server of its model is empty. Once it is starving, a server accepts nothing else until
it is empty.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling.pool_state import PoolState, Step, Suspect, Waiter, reject, update_server

SUSPECTED_SECONDS = 3600.0
EXCLUSIVE_SECONDS = 60.0  # alone on its server; others may wait that long for it
MAX_SUSPECTS = 1024


def with_suspects(state: PoolState, server: Server, at: float) -> PoolState:
    """The state after a server ended in mid-answer: what it had in flight is suspect, or refused if it was alone."""
    hashes = {each for each in server.in_flight.values() if each}
    was_alone = server.exclusive_ticket is not None and server.in_flight.keys() == {server.exclusive_ticket}
    known = {each: suspect for each, suspect in state.suspects.items() if suspect.until > at and each not in hashes}
    refused = {each for each in hashes if was_alone or _is_refused(state, each, at)}
    known |= {each: Suspect(at + SUSPECTED_SECONDS, is_refused=each in refused) for each in sorted(hashes)}
    return replace(state, suspects=dict(list(known.items())[-MAX_SUSPECTS:]))


def without_suspect(state: PoolState, request_hash: str) -> PoolState:
    """The state after a request with this hash was answered completely."""
    suspect = state.suspects.get(request_hash)
    if suspect is None or suspect.is_refused:
        return state
    return replace(state, suspects={each: other for each, other in state.suspects.items() if each != request_hash})


def is_suspect(state: PoolState, waiter: Waiter, now: float) -> bool:
    """Whether the request must run alone."""
    suspect = state.suspects.get(waiter.request_hash)
    return suspect is not None and suspect.until > now


def with_exclusive_request(server: Server, ticket: int, now: float) -> Server:
    """The server while it accepts nothing but the suspect with this ticket."""
    return replace(server, exclusive_ticket=ticket, exclusive_until=now + EXCLUSIVE_SECONDS)


def _is_refused(state: PoolState, request_hash: str, now: float) -> bool:
    suspect = state.suspects.get(request_hash)
    return suspect is not None and suspect.is_refused and suspect.until > now


def refuse_crashing(state: PoolState, now: float) -> Step:
    """Requests that have ended a server while they ran alone are refused."""
    if not state.suspects:
        return state, []
    refusals = {}
    for waiter in state.waiting:
        if _is_refused(state, waiter.request_hash, now):
            minutes = (state.suspects[waiter.request_hash].until - now) / 60
            refusals[waiter.ticket] = Refusal(Reason.CRASHES_ENGINE, waiter.model.name, f"{minutes:.0f} min")
    return reject(state, refusals)


def end_exclusivity(state: PoolState, now: float) -> Step:
    """A suspect that has run alone for long enough shares its server again."""
    for server in state.servers:
        if server.exclusive_ticket is not None and now >= server.exclusive_until:
            state = update_server(state, server.id, lambda s: replace(s, exclusive_ticket=None))
    return state, []
