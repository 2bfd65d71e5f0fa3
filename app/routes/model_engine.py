"""The engine that a model is served with: its own, or the service's."""

from __future__ import annotations

from app.entities.launch import EngineState
from app.entities.model import Model
from app.errors import NoEngine
from app.services import Services


def engine_of(services: Services, model: Model) -> EngineState:
    if own := model.launch.engine:
        return services.own_engines.get(own, EngineState())
    return EngineState(services.engine, services.engine_problem)


def check_engine(services: Services, model: Model) -> None:
    """Raises NoEngine if the model's never worked; one that no longer does is an error of the next load."""
    engine = engine_of(services, model)
    if engine.facts is None:
        own = model.launch.engine
        raise NoEngine(f"{model.name} has an engine of its own: {engine.problem}" if own else engine.problem)
