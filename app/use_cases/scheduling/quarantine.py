"""Quarantine: keys whose requests run alone because they seem to crash a model's servers, each with another body.

suspects.py knows a request by its hash, so a client whose body changes each time hits its neighbors each time. It is
known by its key: one that had a request in flight at each of the last MIN_CRASHES crashes of a model is in quarantine
for that model, until QUARANTINE_SECONDS have passed without another crash. So is an innocent one that was there each
time, but only until the next crash, at which the guilty one is alone.

Where only one key uses a model, or there are no keys, there is nobody to tell apart, and no quarantine.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.model import Model
from app.entities.server import Server
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.suspicion import Crash

MIN_CRASHES = 3
QUARANTINE_SECONDS = 600.0  # from the last crash; the first of the MIN_CRASHES was no longer before it


def quarantined_keys(state: PoolState, model: Model, now: float) -> frozenset[str]:
    """The names of the keys whose requests for the model must run alone."""
    crashes = state.crashes.get(model.name, ())
    if len(crashes) < MIN_CRASHES or not all(crash.model.is_served_as(model) for crash in crashes):
        return frozenset()
    first, last = crashes[0].at, crashes[-1].at
    if now - last >= QUARANTINE_SECONDS or last - first > QUARANTINE_SECONDS:
        return frozenset()
    users = frozenset[str]().union(*(crash.users for crash in crashes))
    return frozenset.intersection(*(crash.keys for crash in crashes)) if len(users) > 1 else frozenset()


def with_crash(state: PoolState, server: Server, at: float) -> PoolState:
    """The state after a request crashed the server; `state` is without it."""
    name = server.model.name
    keys = frozenset(request.key for request in server.in_flight.values())
    running = (request.key for other in state.servers_of(name) for request in other.in_flight.values())
    users = keys.union(running, (waiter.key for waiter in state.waiting if waiter.model.name == name))
    crashes = (*state.crashes.get(name, ()), Crash(server.model, at, keys, users))
    return replace(state, crashes={**state.crashes, name: crashes[-MIN_CRASHES:]})
