"""Makes the event of a reloaded configuration, which includes what changed models need."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from app.entities.model import Model
from app.errors import ProxyError
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.events import Reconfigured
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState


def reconfigured(
    state: PoolState,
    limits: SchedulingLimits,
    models: Mapping[str, Model],
    placement_request: Callable[[Model], PlacementRequest],
) -> Reconfigured:
    """The event. Reads the headers of changed models that requests wait for in `state`; a model that cannot be served
    is left out, so its waiting requests are rejected."""
    waiting = {waiter.model.name: waiter.model for waiter in state.waiting_for_server}
    requests = {}
    for name, old in waiting.items():
        model = models.get(name)
        if model is not None and not model.problem and not old.is_served_as(model):
            with contextlib.suppress(ProxyError):
                requests[name] = placement_request(model)
    return Reconfigured(limits, models, requests, time.monotonic())
