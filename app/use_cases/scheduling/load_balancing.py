"""Load balancing: which server of a model a request gets, and which of them are surplus.

A request goes to the server that its conversation used last, whose prompt cache knows it, if that has a free slot; else
to the least busy one, of equals to the oldest, so that the youngest is idle soon where one less would do. Hashing the
conversation to a server would need no memory, but it ignores load, moves old conversations whenever a replica is added,
and keeps every replica in use for as long as the model is requested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.server import Server
from app.use_cases.scheduling.pool_state import READY, STARTING, Conversations, PoolState, Waiter

MAX_CONVERSATIONS = 512  # remembered per model; copying that many costs 2 us at each of its requests


def pick_server(free: Sequence[Server], waiter: Waiter, conversations: Mapping[str, Conversations]) -> Server:
    """The server of `free`, those with a free slot, that the waiter gets."""
    if len(free) == 1:
        return free[0]
    known = conversations.get(waiter.model.name, {})
    server_id = known.get(waiter.conversation) if waiter.conversation is not None else None
    return next((server for server in free if server.id == server_id), None) or min(free, key=load_of)


def load_of(server: Server) -> tuple[int, int]:
    """Sort key: the least busy first, of equals the oldest."""
    return len(server.leases) + server.abandoned_slots, server.id


def with_conversation(
    conversations: Mapping[str, Conversations], waiter: Waiter, server: Server
) -> Mapping[str, Conversations]:
    """The conversations with the waiter's on this server; of each model the latest MAX_CONVERSATIONS are kept."""
    assert waiter.conversation is not None
    known = dict(conversations.get(waiter.model.name, {}))
    known.pop(waiter.conversation, None)
    known[waiter.conversation] = server.id
    if len(known) > MAX_CONVERSATIONS:
        del known[next(iter(known))]
    return {**conversations, waiter.model.name: known}


def retention_rank(state: PoolState, server: Server) -> int:
    """0 for the server of its model that is kept longest, counting up to the one that is stopped first.

    Busy ones are kept before idle ones, then by last use, then the oldest; one that is still loading is stopped first.
    Servers that are draining or stopping are not ranked: 0.
    """
    if server.model.replicas.max == 1 or server.state not in (READY, STARTING):
        return 0
    ranked = [replica for replica in state.servers_of(server.model.name) if replica.state in (READY, STARTING)]
    return [replica.id for replica in sorted(ranked, key=retention_key)].index(server.id)


def retention_key(server: Server) -> tuple[bool, bool, float, int]:
    """Orders the servers of a model that are ready or starting: the one that is kept longest comes first."""
    return server.state is STARTING, server.is_idle, -server.last_used, server.id


def is_surplus(state: PoolState, server: Server) -> bool:
    """Whether another server of its model remains without it: stopping it causes no cold start.

    A surplus server is the first to be evicted for another model, at once, whatever its age and priority, and even if
    its model is pinned.
    """
    return retention_rank(state, server) > 0


def is_above_min(state: PoolState, server: Server) -> bool:
    """Whether its model still has `replicas.min` servers without it."""
    return retention_rank(state, server) >= server.model.replicas.min
