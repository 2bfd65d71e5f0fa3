"""What to book for a model before it is loaded: what a start like it took before, else an estimate.

Here and nowhere else it is chosen where the number comes from.
"""

from __future__ import annotations

import logging

from app.entities.launch import EngineFacts
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.model import Model
from app.use_cases.estimate import guess_bytes
from workers.history import History, start_of

log = logging.getLogger(__name__)


class Needs:
    """Asked on the thread of the request that may have to load a model."""

    def __init__(self, history: History, engine: EngineFacts | None) -> None:
        self._history = history
        self._engine = engine

    def bytes(self, model: Model) -> int:
        """What a server for `model` is booked with. Raises the ProxyError of a model that cannot be served."""
        need = self.estimate(model)
        log.info("need model=%s mib=%d confidence=%s", model.name, need.booked_bytes >> 20, need.confidence)
        return need.booked_bytes

    def estimate(self, model: Model) -> Estimate:
        """The same by item, and how much of it is known."""
        known = self._history.estimate(start_of(model, self._engine)) if self._engine else None
        return known or Estimate((), DeviceMemory(weights_bytes=guess_bytes(model)), Confidence.LOW)
