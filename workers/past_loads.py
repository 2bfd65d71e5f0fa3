"""What the service has learned of earlier loads, for a command that asks about a model."""

from __future__ import annotations

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.model import Model
from app.settings.schema import Settings
from app.use_cases.estimate.companions import Companions
from app.use_cases.model_shape.shape import ModelShape, model_shape
from app.use_cases.placement.request import PlacementRequest
from workers.builders import build_engine
from workers.catalog.model_headers import ModelHeaders
from workers.folders import state_folder
from workers.measurement.history import History
from workers.pool.estimate_source import EstimateSource


def past_loads() -> History:
    file = state_folder() / "history.sqlite3"
    history = History(file)
    if file.exists():
        history.start()
    return history


def learned_request(
    settings: Settings, model: Model, shape: ModelShape, companions: Companions
) -> PlacementRequest | None:
    """The request with what loads of this file took; None if it was never loaded. `model`: as it is started."""
    history = past_loads()
    if not history.knows(model.path):
        return None
    engine = build_engine(settings, model.launch.engine)
    gpus = GpuSnapshot(GpuState.DISABLED, at=0.0)
    source = EstimateSource(history, lambda own: engine.facts, ModelHeaders(model_shape), lambda: gpus)
    return source.request_by_headers(model, shape, companions)
