"""A pool and a relay that answer at once, and keep what they were asked for: no process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from app.entities.model import Model
from app.ports import Address, Lease
from app.routes.own_answer import OwnAnswer

STREAM = b'data: {"choices": []}\n\ndata: [DONE]\n\n'


class ScriptedEngine:
    """`acquired`: the models that a slot was acquired for; `held`: slots that were not given back."""

    def __init__(self) -> None:
        self.acquired: list[str] = []
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.held = 0

    def acquire(self, model: Model, *rest: Any) -> Any:
        self.acquired.append(model.name)
        self.held += 1
        lease = Lease(Address(1, model.name, 1, "key"), 0.0)
        return SimpleNamespace(wait=lambda seconds=None: lease, end=self._end)

    def _end(self, *how: Any) -> None:
        self.held -= 1

    def unload(self, model: Model, *rest: Any) -> None:
        self.unloaded.append(model.name)

    def load(self, model: Model, *rest: Any) -> None:
        self.loaded.append(model.name)

    def by_availability(self, models: Any) -> list[Model]:
        return list(models)

    def send(self, address: Address, request: Any, client: Any) -> OwnAnswer:
        if b'"stream": true' in request.body:
            return OwnAnswer(STREAM, "text/event-stream", is_stream=True)
        return OwnAnswer(b'{"object": "chat.completion"}', "application/json")
