"""Alternatives: which of several models answers a virtual name (`any_of`).

The one that is loaded, else one that is loading, else the first that fits without an eviction, else the first that can
be loaded at all. Pure: what a snapshot of the pool says. The load itself is decided anew, by then on fresh readings.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from app.entities.model import Model
from app.entities.placement import Outcome
from app.entities.server import Server
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from app.use_cases.scheduling.decision_inputs import decide_load, world_with_eviction_costs
from app.use_cases.scheduling.pool_state import READY, STARTING, PoolState, Waiter
from app.use_cases.scheduling.rejection import gpu_problem

PASSED_OVER_SECONDS = 60.0  # after a failed load, as long as another model is available


class Availability(enum.IntEnum):
    """How soon a model answers, the best first."""

    FREE_SLOT = enum.auto()
    LOADED = enum.auto()
    LOADING = enum.auto()
    FITS = enum.auto()
    LATER = enum.auto()  # after evictions or a wait
    FAILED = enum.auto()  # its last load, or there is no room now that could be made
    NEVER = enum.auto()


def has_loaded(state: PoolState, models: Sequence[Model]) -> bool:
    """Whether one of them is loaded or loading: nothing has to be placed then."""
    return any(_serving(state, model) for model in models)


def by_availability(
    state: PoolState, models: Sequence[Model], requests: Mapping[str, PlacementRequest], now: float
) -> list[Model]:
    """The models, the one that should answer first; of equals the first in the list.

    `requests`: by name, what each needs; without one a model that is not loaded cannot be served. Empty, they do not
    matter: `has_loaded`.
    """
    availabilities = _Availabilities(state, requests, now)
    found = {model.name: availabilities.of(model) for model in models}
    return sorted(models, key=lambda model: found[model.name])


def _serving(state: PoolState, model: Model) -> list[Server]:
    return [
        server
        for server in state.servers_of(model.name)
        if server.state in (READY, STARTING) and server.model.is_served_as(model)
    ]


class _Availabilities:
    """Decides until one model fits: what comes after it needs no decision, which takes milliseconds."""

    def __init__(self, state: PoolState, requests: Mapping[str, PlacementRequest], now: float) -> None:
        self._state, self._requests, self._now = state, requests, now
        self._has_fitting = False
        self._world: World | None = None  # made for the first decision

    def of(self, model: Model) -> Availability:
        if servers := _serving(self._state, model):
            ready = [server for server in servers if server.state is READY]
            if not ready:
                return Availability.LOADING
            return Availability.FREE_SLOT if any(each.has_free_slot for each in ready) else Availability.LOADED
        failure = self._state.failures.get(model.name)
        if failure is not None and self._now < failure.at + PASSED_OVER_SECONDS:
            return Availability.FAILED
        if (request := self._requests.get(model.name)) is None:
            return Availability.NEVER
        return Availability.LATER if self._has_fitting else self._placed(model, request)

    def _placed(self, model: Model, request: PlacementRequest) -> Availability:
        waiter = Waiter(0, model, self._now, self._now, placement_request=request)
        if gpu_problem(self._state, waiter, self._now):
            return Availability.FAILED
        if self._state.memory is None:  # not read yet: nothing has been loaded
            return Availability.LATER
        self._world = self._world or world_with_eviction_costs(self._state, self._now)
        decision = decide_load(self._state, waiter, self._world)
        if decision.outcome is Outcome.REFUSE:
            return Availability.NEVER if decision.is_permanent else Availability.FAILED
        self._has_fitting = decision.outcome is Outcome.PLACE
        return Availability.FITS if self._has_fitting else Availability.LATER
