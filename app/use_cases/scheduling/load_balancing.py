"""Siblings: the servers of one model among themselves: which of them a request gets, and which is missed least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.server import Server
from app.use_cases.scheduling.pool_state import READY, STARTING, Conversations, PoolState, Waiter

MAX_CONVERSATIONS = 512  # conversations of a model; copying that many costs 2 us at each of its requests


def pick_server(free: Sequence[Server], waiter: Waiter, conversations: Mapping[str, Conversations]) -> Server:
    """Of the servers with a free slot the one that its conversation was last with, whose prompt cache knows it; else
    the least busy, the oldest of those: so the youngest is idle soon where one less would do.

    What is not known goes by load, so it is remembered who was where. A hash that names the server would need no
    memory, but it sends new conversations to full servers, moves old ones when there is one server more, and keeps
    each replica in use for as long as anybody asks for the model."""
    known = conversations.get(waiter.model.name, {})
    server = known.get(waiter.conversation) if waiter.conversation is not None else None
    return next((each for each in free if each.id == server), None) or min(free, key=_used_slots)


def _used_slots(server: Server) -> tuple[int, int]:
    return len(server.leases) + server.abandoned_slots, server.id


def with_conversation(
    conversations: Mapping[str, Conversations], waiter: Waiter, server: Server
) -> Mapping[str, Conversations]:
    """With where this one is from now on; of each model the latest are known."""
    assert waiter.conversation is not None
    known = dict(conversations.get(waiter.model.name, {}))
    known.pop(waiter.conversation, None)
    known[waiter.conversation] = server.id
    if len(known) > MAX_CONVERSATIONS:
        del known[next(iter(known))]
    return {**conversations, waiter.model.name: known}


def retention_rank(state: PoolState, server: Server) -> int:
    """0 for the one of its model that is worth most to keep, and for one alone: busy ones are worth more than idle
    ones, then who was used last, then the oldest; one that loads is worth least. Those that leave are not compared."""
    if server.model.replicas.max == 1 or server.state not in (READY, STARTING):
        return 0
    staying = [each for each in state.servers_of(server.model.name) if each.state in (READY, STARTING)]
    return [each.id for each in sorted(staying, key=_retention_key)].index(server.id)


def _retention_key(server: Server) -> tuple[bool, bool, float, int]:
    return server.state is STARTING, server.is_idle, -server.last_used, server.id


def is_surplus(state: PoolState, server: Server) -> bool:
    """Whether another of its model is there without it: stopping it costs no cold start."""
    return retention_rank(state, server) > 0


def is_above_min(state: PoolState, server: Server) -> bool:
    """Whether its model has as many as it is to have at least without it."""
    return retention_rank(state, server) >= server.model.replicas.min
