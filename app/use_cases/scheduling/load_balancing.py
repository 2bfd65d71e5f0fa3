"""Siblings: the servers of one model among themselves: which of them a request gets, and which is missed least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.server import Server
from app.use_cases.scheduling.pool_state import READY, STARTING, Conversations, PoolState, Waiter

MOST_KNOWN = 512  # conversations of a model; copying that many costs 2 us at each of its requests


def chosen(free: Sequence[Server], waiting: Waiter, conversations: Mapping[str, Conversations]) -> Server:
    """Of the servers with a free slot the one that its conversation was last with, whose prompt cache knows it; else
    the least busy, the oldest of those: so the youngest is idle soon where one less would do.

    What is not known goes by load, so it is remembered who was where. A hash that names the server would need no
    memory, but it sends new conversations to full servers, moves old ones when there is one server more, and keeps
    each replica in use for as long as anybody asks for the model."""
    known = conversations.get(waiting.model.name, {})
    server = known.get(waiting.conversation) if waiting.conversation is not None else None
    return next((each for each in free if each.id == server), None) or min(free, key=_how_busy)


def _how_busy(server: Server) -> tuple[int, int]:
    return len(server.leases) + server.left_behind, server.id


def with_one_more(
    conversations: Mapping[str, Conversations], waiting: Waiter, server: Server
) -> Mapping[str, Conversations]:
    """With where this one is from now on; of each model the latest are known."""
    assert waiting.conversation is not None
    known = dict(conversations.get(waiting.model.name, {}))
    known.pop(waiting.conversation, None)
    known[waiting.conversation] = server.id
    if len(known) > MOST_KNOWN:
        del known[next(iter(known))]
    return {**conversations, waiting.model.name: known}


def place_in_worth(state: PoolState, server: Server) -> int:
    """0 for the one of its model that is worth most to keep, and for one alone: busy ones are worth more than idle
    ones, then who was used last, then the oldest; one that loads is worth least. Those that leave are not compared."""
    if server.model.replicas.max == 1 or server.state not in (READY, STARTING):
        return 0
    staying = [each for each in state.servers_of(server.model.name) if each.state in (READY, STARTING)]
    return [each.id for each in sorted(staying, key=_worth)].index(server.id)


def _worth(server: Server) -> tuple[bool, bool, float, int]:
    return server.state is STARTING, server.is_idle, -server.last_used, server.id


def is_spare(state: PoolState, server: Server) -> bool:
    """Whether another of its model is there without it: stopping it costs no cold start."""
    return place_in_worth(state, server) > 0


def is_beyond_min(state: PoolState, server: Server) -> bool:
    """Whether its model has as many as it is to have at least without it."""
    return place_in_worth(state, server) >= server.model.replicas.min
