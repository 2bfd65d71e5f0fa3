"""Virtual names (`any_of`): names that stand for several models, one of which answers.

A key may use those of them that it may use by their own names; a virtual name without any does not exist for it.
"""

from __future__ import annotations

from collections.abc import Callable

from app.entities.model import Model
from app.errors import (
    InsufficientVram,
    InvalidModelFile,
    LoadTimeout,
    ModelDoesNotFit,
    ModelLoadFailed,
    NoEngine,
    NoGpu,
    ProxyError,
    SpawnFailed,
)
from app.ports import Lease
from app.routes.incoming_request import IncomingRequest
from app.routes.visibility import alternatives, servable_model
from app.use_cases.requirements import Requirements

# The model was not loaded, and another may be.
LOAD_FAILURES = (
    *(InsufficientVram, InvalidModelFile, LoadTimeout, ModelDoesNotFit, ModelLoadFailed, NoEngine, NoGpu, SpawnFailed),
)


def first_slot(
    request: IncomingRequest, name: str, requirements: Requirements, model: Model, wait: Callable[[Model], Lease | None]
) -> Lease | None:
    """`wait(model)`; where its load fails, of the next model that the virtual name stands for.

    A body that was changed for one model is not sent to another. Raises the last error.
    """
    tried = {model.name}
    while True:
        try:
            return wait(model)
        except LOAD_FAILURES as error:
            others = [] if model.rules else alternatives(request, name, requirements)
            model = _next(request, [each for each in others if each.name not in tried], tried, error)
            tried.add(model.name)


def _next(request: IncomingRequest, others: list[Model], tried: set[str], error: ProxyError) -> Model:
    for other in request.services.pool.by_availability(others):
        try:
            return servable_model(request, other.variant or other.name)
        except InvalidModelFile:
            tried.add(other.name)
    raise error
