"""What a decision about GPUs is asked: a model, its options, and what its settings wish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.entities.launch import MemoryOptions
from app.entities.memory import Estimate
from app.entities.placement import Wishes
from app.use_cases.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be placed: a model with its options, all layers on GPUs, and how to estimate it with others."""

    shape: ModelShape
    options: MemoryOptions
    estimate: Callable[[MemoryOptions], Estimate]
    wishes: Wishes = field(default_factory=Wishes)
