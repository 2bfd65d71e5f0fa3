"""Idle: when a server that nobody uses goes by itself.

One alone goes after its ttl. The servers of one model go together, by who was used last: each for itself, one that is
seldom used would go and be started again for `replicas.min`. Those beyond that number go sooner.
"""

from __future__ import annotations

from math import inf

from app.entities.server import Server
from app.use_cases.scheduling.demand import load_seconds
from app.use_cases.scheduling.load_balancing import is_above_min
from app.use_cases.scheduling.pool_state import STOPPING, PoolState


def idle_deadline(state: PoolState, server: Server) -> float:
    """The time at which this idle server goes if nobody uses it; infinity: it stays."""
    if server.model.replicas.max == 1:
        return _ttl_deadline(state, server)
    ours = state.servers_of(server.model.name)
    left = [each for each in ours if each.state is not STOPPING]  # those may have been told a moment ago, by this rule
    last = max(ours, key=lambda each: each.last_used)
    together = _ttl_deadline(state, last) if all(each.is_idle for each in left) else inf
    return min(together, _surplus_deadline(state, server))


def _ttl_deadline(state: PoolState, server: Server) -> float:
    model, keep = server.model, server.keep_alive_seconds
    if model.pin and model.ttl_seconds is None:
        return inf
    if keep is None:
        keep = state.limits.ttl_seconds if model.ttl_seconds is None else model.ttl_seconds
    return server.last_used + keep


def _surplus_deadline(state: PoolState, server: Server) -> float:
    """Beyond `min`. It stays for as long as its load took at least: where requests come in bursts it would be loaded
    anew for each."""
    if not is_above_min(state, server):
        return inf
    stays = max(state.limits.min_residency_seconds, load_seconds(state.demands, server.model))
    return min(server.last_used + stays, _ttl_deadline(state, server))
