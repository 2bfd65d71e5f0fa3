"""Availability: the models of a virtual name in the order in which they should answer, by the published state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from app.entities.model import Model
from app.errors import ProxyError
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.alternatives import by_availability, has_loaded
from app.use_cases.scheduling.pool_state import PoolState


def in_order_of_availability(
    state: PoolState, models: Sequence[Model], placement_request: Callable[[Model], PlacementRequest]
) -> list[Model]:
    """The model that should answer first. Headers are read only if none of them is loaded."""
    if len(models) < 2:
        return list(models)
    requests = {} if has_loaded(state, models) else _known_requests(models, placement_request)
    return by_availability(state, models, requests, time.monotonic())


def _known_requests(
    models: Sequence[Model], placement_request: Callable[[Model], PlacementRequest]
) -> dict[str, PlacementRequest]:
    """What each model needs, by name, without those that cannot be served."""
    found = {}
    for model in models:
        with contextlib.suppress(ProxyError):
            found[model.name] = placement_request(model)
    return found
