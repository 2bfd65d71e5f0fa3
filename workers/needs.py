"""What to book for a model before it is loaded: what a start like it took before, else an estimate.

Here and nowhere else it is chosen where the number comes from.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from app.entities.launch import EngineFacts
from app.entities.memory import Estimate
from app.entities.model import Model
from app.errors import InvalidModelFile
from app.use_cases.around_faults import around_faults
from app.use_cases.estimate import estimate_memory
from app.use_cases.memory_options import memory_options
from app.use_cases.model_shape import ModelShape
from workers.beside_files import BesideFiles
from workers.history import History, start_of
from workers.model_headers import ModelHeaders

log = logging.getLogger(__name__)


class Needs:
    """Asked on the thread of the request that may have to load a model."""

    def __init__(self, history: History, engine: EngineFacts | None, shapes: ModelHeaders[ModelShape]) -> None:
        self._history = history
        self._engine = engine
        self._shapes = shapes
        self._beside = BesideFiles()

    def bytes(self, model: Model) -> int:
        """What a server for `model` is booked with. Raises the ProxyError of a model that cannot be served."""
        need = self.estimate(model)
        log.info("need model=%s mib=%d confidence=%s", model.name, need.booked_bytes >> 20, need.confidence)
        return need.booked_bytes

    def estimate(self, model: Model) -> Estimate:
        """The same by item, and how much of it is known."""
        model = self.as_started(model)
        if self._engine is None:
            return self._worked_out(model)
        start = start_of(model, self._engine)
        return self._history.estimate(start) or self._history.with_overheads(start, self._worked_out(model))

    def as_started(self, model: Model) -> Model:
        """The model with the settings it is really started with."""
        try:
            architecture = self._shapes.get(model.path).hparams.architecture
        except InvalidModelFile:  # the engine will say so
            return model
        return replace(model, launch=around_faults(model.launch, architecture))

    def _worked_out(self, model: Model) -> Estimate:
        """From the headers, for the CPU."""
        shape, beside = self._shapes.get(model.path), self._beside.read(model.launch)
        return estimate_memory(shape, memory_options(model.launch), beside=beside)
