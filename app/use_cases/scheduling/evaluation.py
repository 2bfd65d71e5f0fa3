"""Evaluation: what the last placement decisions depended on, so that nothing is decided twice on the same facts.

A decision takes milliseconds, and the scheduler steps at every request. One evaluation serves loads and replicas: while
a load waits, no replica is placed.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.placement import Decision, Placement
from app.entities.server import Server, ServerState
from app.use_cases.placement.request import PlacementRequest

LoadKey = tuple[
    int, PlacementRequest | None, int
]  # the oldest request's ticket, and log2 of how many wait for the load
Reservation = tuple[Placement, tuple[int, ...]]  # a place that a load waits for, and the servers that end for it
ServerStates = tuple[tuple[int, ServerState], ...]  # by id


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything but time that placement decisions depend on."""

    servers: ServerStates
    awaited_models: frozenset[str]  # those that have a server and requests waiting for it
    has_gpus: bool
    memory: tuple[object, ...]  # fingerprint of the ledger: a reading that shows the same changes nothing


@dataclass(frozen=True, slots=True)
class DecidedLoad:
    """What was decided about a load that waits."""

    model: str
    decision: Decision
    protected_until: float | None = None  # when the servers in its way may be evicted, or drained; None: now, or never


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The last decisions about what could not be started: either loads that wait, or replicas that are wanted.

    They are made again when the facts have changed, or at `repeat_at`.
    """

    facts: Facts
    at: float
    repeat_at: float
    loads: tuple[LoadKey, ...] = ()  # in the order of the decisions
    reservations: tuple[Reservation, ...] = ()  # for these loads
    busy: frozenset[int] = frozenset()  # ids of servers; one that has become idle since may be evicted
    decided: tuple[DecidedLoad, ...] = ()  # these loads
    replicas: tuple[str, ...] = ()  # models that want another server
    awaits_readings: bool = False  # nothing is decided yet; the readings for it were requested


def server_states(servers: tuple[Server, ...]) -> ServerStates:
    return tuple((server.id, server.state) for server in servers)
