"""Adds to the catalogue's models what their headers say, as far as these have been read. Reads no file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.entities.capabilities import Capabilities
from app.entities.model import Model
from app.use_cases.launch.capabilities import capabilities_of
from workers.catalog.model_headers import HeaderCheck, ModelHeaders

NOTHING = Capabilities()


class DescribedModels:
    """Thread-safe."""

    def __init__(self, headers: ModelHeaders[Any]) -> None:
        self._headers = headers
        # By name and variant, with what it was made from; any thread may replace an entry, at worst one is made twice.
        self._known: dict[tuple[str, str], tuple[Model, HeaderCheck | None, Model]] = {}

    def of(self, model: Model) -> Model:
        """The model with the problem, the facts and the capabilities that the last check of its header found.

        The same object until another check.
        """
        check = self._headers.last_check(model.path)
        key = model.name, model.variant
        known = self._known.get(key)
        if known is not None and (known[0] is model or known[2] is model):
            if known[1] is check:
                return known[2]
            model = known[0]
        described = _described(model, check)
        self._known[key] = model, check, described
        return described

    def forget(self) -> None:
        """Drop what is known; a scan may have removed models."""
        self._known = {}


def _described(model: Model, check: HeaderCheck | None) -> Model:
    if check is None:
        return replace(model, capabilities=NOTHING) if model.problem else model
    problem = model.problem or check.problem
    if problem or check.facts is None:
        return replace(model, problem=problem, facts=check.facts, capabilities=NOTHING)
    return replace(model, facts=check.facts, capabilities=capabilities_of(check.facts, model.launch, model.media))
