"""Idle: when a server that nobody uses is stopped.

A single server is stopped `ttl_seconds` after its last use. The servers of a model with replicas are stopped together,
that long after the last use of any: counted one by one, a rarely used one would be stopped and then started again for
`replicas.min`. Those above `min` are stopped sooner.
"""

from __future__ import annotations

from math import inf

from app.entities.server import Server
from app.use_cases.scheduling.demand import expected_load_seconds
from app.use_cases.scheduling.load_balancing import is_above_min
from app.use_cases.scheduling.pin_orders import stays_when_idle
from app.use_cases.scheduling.pool_state import STOPPING, PoolState


def idle_deadline(state: PoolState, server: Server) -> float:
    """When this idle server is stopped if nobody uses it before; infinity: never."""
    if server.model.replicas.max == 1:
        return _ttl_deadline(state, server)
    replicas = state.servers_of(server.model.name)
    last_used = max(replicas, key=lambda replica: replica.last_used)
    # Those that stop already may have been stopped a moment ago, by this very rule.
    are_all_idle = all(replica.is_idle for replica in replicas if replica.state is not STOPPING)
    common_deadline = _ttl_deadline(state, last_used) if are_all_idle else inf
    return min(common_deadline, _surplus_deadline(state, server))


def _ttl_deadline(state: PoolState, server: Server) -> float:
    """By the last request's keep_alive, else by `ttl_seconds` of the model, else of all; a pinned model ignores the
    first and the last."""
    model, keep_seconds = server.model, server.keep_alive_seconds
    if stays_when_idle(state.pin_orders, model):
        return inf
    if keep_seconds is None:
        keep_seconds = state.limits.ttl_seconds if model.ttl_seconds is None else model.ttl_seconds
    return server.last_used + keep_seconds


def _surplus_deadline(state: PoolState, server: Server) -> float:
    """For a replica above `min`: `min_residency_seconds`, or as long as its load took if that was longer. Where
    requests come in bursts it would otherwise be loaded anew for each."""
    if not is_above_min(state, server):
        return inf
    residency_seconds = max(state.limits.min_residency_seconds, expected_load_seconds(state.demands, server.model))
    return min(server.last_used + residency_seconds, _ttl_deadline(state, server))
