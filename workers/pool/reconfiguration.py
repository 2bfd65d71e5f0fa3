"""Current definitions: a command or a reload meets the models as the catalogue has them when it is processed.

A request looks its model up some time before. If a reload or a scan redefines the model in between, the request would
have a server of the old definition started, and those of the new one drained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from app.entities.model import Model
from app.entities.refusal import Reason, Refusal
from app.errors import ProxyError
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.events import Acquire, Load, Reconfigured
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState

MakeRequest = Callable[[Model], PlacementRequest]  # raises the ProxyError of a model that cannot be served


def with_current_model(
    command: Acquire | Load, model: Model | None, placement_request: MakeRequest
) -> Acquire | Load | Refusal:
    """The command, for `model`, which its model's name means now; None: nothing."""
    if model is command.model:
        return command
    if model is not None and command.model.is_served_as(model):
        return replace(command, model=replace(model, problem=command.model.problem))
    try:
        if model is not None and not model.problem:
            return replace(command, model=model, placement_request=placement_request(model))
    except ProxyError:
        pass  # its client learns why when it sends the request again
    return Refusal(Reason.UNLOADED, command.model.name)


def reconfigured(
    state: PoolState, limits: SchedulingLimits, models: Mapping[str, Model], placement_request: MakeRequest
) -> Reconfigured:
    """The event of a reload. Reads the headers of changed models that requests wait for in `state`; a model that cannot
    be served is left out, so its waiting requests are rejected."""
    event = Reconfigured(limits, models, {}, time.monotonic())
    return completed(event, state, placement_request)


def completed(event: Reconfigured, state: PoolState, placement_request: MakeRequest) -> Reconfigured:
    """The event, with what is missing for requests that wait in `state`."""
    requests = dict(event.placement_requests)
    for name, old in {waiter.model.name: waiter.model for waiter in state.waiting_for_server}.items():
        model = event.models.get(name)
        if model is None or model.problem or name in requests or old.is_served_as(model):
            continue
        with contextlib.suppress(ProxyError):
            requests[name] = placement_request(model)
    return replace(event, placement_requests=requests)
