"""A model in a repository, as far as its headers tell: enough to say what it needs, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.entities.capabilities import HeaderFacts
from app.entities.refusal import Refusal
from app.use_cases.estimate.companions import Companions
from app.use_cases.model_shape.shape import ModelShape
from app.use_cases.reporting.plans import Plan
from workers.downloads.found_model import FoundModel


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What the headers of a model and its projector say. Draft heads are used only by `args`."""

    found: FoundModel
    shape: ModelShape
    facts: HeaderFacts
    companions: Companions


class Machine(Protocol):
    """The machine that a model is downloaded for, and the settings that the model would have on it."""

    def plan(self, model: RemoteModel) -> Plan:
        """Where it would go now with PLANNED_CTX_TOKENS of context. Raises Overloaded."""

    def refusal(self, model: RemoteModel) -> Refusal | None:
        """Why it can never be loaded with its settings; None if it can, or if nobody knows. Raises Overloaded."""
