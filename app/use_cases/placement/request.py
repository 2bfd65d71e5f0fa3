"""What a decision about GPUs is asked: a model, its options, and what its settings wish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.entities.launch import ModelOptions, Task
from app.entities.memory import DeviceMemory, Estimate
from app.entities.placement import PlacementConstraints
from app.use_cases.model_shape.shape import ModelShape

_LAST, _RANK = 3, 4  # of enum llama_pooling_type (llama.h); a model that also chats may have another


@dataclass(frozen=True, slots=True)
class Extra:
    """What starts of a model were seen to need beyond their estimate: a lesson for the next one."""

    device_bytes: int = 0  # on each GPU
    host_bytes: int = 0

    def __add__(self, other: Extra) -> Extra:
        return Extra(self.device_bytes + other.device_bytes, self.host_bytes + other.host_bytes)


NOTHING_EXTRA = Extra()


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What is to be placed: a model with its options, and what it needs with others.

    `estimate` is given options and the models of the GPUs, in the order of the split.
    """

    shape: ModelShape
    options: ModelOptions
    estimate: Callable[[ModelOptions, tuple[str, ...]], Estimate]
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    extra: Extra = NOTHING_EXTRA

    @property
    def task(self) -> Task:
        """What it is for: as it is started, else by what its header says of how its tokens are put together."""
        if self.options.task is not Task.COMPLETION:
            return self.options.task
        hparams = self.shape.hparams
        pooling = hparams.integer("pooling_type")
        if pooling == _RANK:
            return Task.RERANK
        is_encoder = hparams.value("attention.causal") is False
        return Task.EMBEDDING if is_encoder or pooling == _LAST else Task.COMPLETION

    def need(self, options: ModelOptions, gpus: tuple[str, ...] = ()) -> Estimate:
        found = self.estimate(options, gpus)
        if self.extra == NOTHING_EXTRA:
            return found
        devices = tuple(_with_margin(each, self.extra.device_bytes) for each in found.devices)
        return replace(found, devices=devices, host=_with_margin(found.host, self.extra.host_bytes))

    def but(self, extra: Extra) -> PlacementRequest:
        """The same, with so much more on top."""
        return self if extra == NOTHING_EXTRA else replace(self, extra=self.extra + extra)


def _with_margin(memory: DeviceMemory, extra_bytes: int) -> DeviceMemory:
    return replace(memory, margin_bytes=memory.margin_bytes + extra_bytes)
