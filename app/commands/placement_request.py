"""The placement request of a model that a command asks about: by its file and settings, without what loads took."""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import PlacementConstraints
from app.use_cases.estimate.companions import Companions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape
from app.use_cases.placement.contexts import choose_context
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from workers.measurement.model_history import NO_HISTORY


def request_by_file(
    shape: ModelShape, options: ModelOptions, constraints: PlacementConstraints, companions: Companions
) -> PlacementRequest:
    """As the service makes it as long as the model was never loaded."""

    def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        return NO_HISTORY.with_overheads(estimate_memory(shape, options, 0, companions), gpus)

    return PlacementRequest(shape, options, estimate, constraints)


def automatic_context(request: PlacementRequest, machine: World) -> int:
    """The context of ctx_size "auto" on a machine, whatever is free on it now."""
    return choose_context(request, machine.empty()).ctx_size
