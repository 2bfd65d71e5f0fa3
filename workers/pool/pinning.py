"""Pinning while the service runs: by the check that a start does with the pinned models of the configuration."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from app.entities.frozen import replace
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.errors import ModelDoesNotFit, Overloaded, ProxyError
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.events import Event
from app.use_cases.scheduling.pin_orders import Pinned, is_pinned
from workers.pool.pinned_models import PinnedModelsCheck
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)


class Pinning:
    """Two orders at the same time may each fit without the other: the later ones see both."""

    def __init__(
        self,
        store: StateStore,
        models: Callable[[], Iterable[Model]],
        placement_request: Callable[[Model], PlacementRequest],
        read_memory: Callable[[Mapping[int, int]], MemoryReading],
        post: Callable[[Event], None],
    ) -> None:
        """`models`: the whole catalogue; `placement_request` raises the ProxyError of a model that cannot be served."""
        self._store = store
        self._models = models
        self._placement_request = placement_request
        self._read_memory = read_memory
        self._post = post

    def pin(self, model: Model) -> None:
        if problems := self._problems(model):
            raise ModelDoesNotFit("; ".join(problems))
        self._order(model, is_pinned=True)

    def unpin(self, model: Model) -> None:
        self._order(model, is_pinned=False)

    def _order(self, model: Model, is_pinned: bool) -> None:
        log.info("%s ordered model=%s", "pin" if is_pinned else "unpin", model.name)
        self._post(Pinned(replace(model, variant=""), is_pinned, time.monotonic()))

    def _problems(self, model: Model) -> tuple[str, ...]:
        """Why the model does not fit the empty machine together with those that are pinned; none while it is not known
        what the machine has. Raises the ProxyError of a model that cannot be served."""
        pool, requests = self._store.pool, {model.name: self._placement_request(model)}
        for other in self._models():
            if is_pinned(pool.pin_orders, other) and other.name != model.name:
                with contextlib.suppress(ProxyError):
                    requests[other.name] = self._placement_request(other)
        try:
            check = PinnedModelsCheck(self._store, requests, pool.limits, self._read_memory)
            return check.certain_errors(self._store.gpus)
        except OSError as error:
            raise Overloaded(f"RAM could not be read: {error}") from error
