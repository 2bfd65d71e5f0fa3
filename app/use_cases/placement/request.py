"""PlacementRequest: the model to place, its options, its memory needs and its placement constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.entities.launch import AUTO_PROMPT_CACHE, DRAFTS_ITSELF, ModelOptions, OwnEngine, Task
from app.entities.memory import DeviceMemory, Estimate
from app.entities.placement import Placement, PlacementConstraints
from app.use_cases.estimate.companions import has_measured_mtp
from app.use_cases.estimate.kv_cache import checkpoint_bytes
from app.use_cases.model_shape.shape import ModelShape


@dataclass(frozen=True, slots=True)
class LearnedMargin:
    """What earlier starts of a model needed beyond their estimate; added to the next estimate."""

    device_bytes: int = 0  # on each GPU
    host_bytes: int = 0

    def __add__(self, other: LearnedMargin) -> LearnedMargin:
        return LearnedMargin(self.device_bytes + other.device_bytes, self.host_bytes + other.host_bytes)


NO_MARGIN = LearnedMargin()


@dataclass(frozen=True, slots=True)
class FoundContext:
    """The context of ctx_size "auto" on one machine, and the placement with the smallest that it chooses from."""

    ctx_size: int
    smallest: Placement


@dataclass(frozen=True, slots=True)
class DraftHead:
    """A file beside a model that can draft tokens for it."""

    path: str
    speculation: str  # the --spec-type that it is for
    shape: ModelShape


FoundContexts = dict[tuple[object, ...], FoundContext | None]  # None: not even the smallest fits


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What is to be placed: a model, its options, and a function that estimates its needs with other options.

    `estimate` takes options and the product names of the GPUs in the order of the split.
    """

    shape: ModelShape
    options: ModelOptions
    estimate: Callable[[ModelOptions, tuple[str, ...]], Estimate]
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    learned_margin: LearnedMargin = NO_MARGIN
    # The estimate by the file and the settings alone; None: `estimate` is that.
    estimate_without_history: Callable[[ModelOptions, tuple[str, ...]], Estimate] | None = None
    # What contexts.py found by the estimate alone; the requests of one file share it.
    found_contexts: FoundContexts = field(default_factory=dict, compare=False, repr=False)

    engine: OwnEngine | None = None  # of the model; None: the service's
    engine_drafts: bool = True  # with the model's own MTP layers: --spec-type draft-mtp
    draft_head: DraftHead | None = None  # estimated with options that have its --spec-type

    @property
    def optional_speculation(self) -> str:
        """The --spec-type that it may get where there is room; "" for none. The options are without it."""
        is_plain = self.options.task is Task.COMPLETION and self.options.speculation == "none"
        if not (self.constraints.has_auto_speculation and is_plain):
            return ""
        if self.draft_head:
            return self.draft_head.speculation
        return DRAFTS_ITSELF if self.engine_drafts and has_measured_mtp(self.shape) else ""

    @property
    def checkpoint_bytes(self) -> int:
        """RAM that context checkpoints may take while the model is in use. Not booked: few servers take as much."""
        return checkpoint_bytes(self.shape, self.options) if self.options.task is Task.COMPLETION else 0

    def estimate_with_margin(self, options: ModelOptions, gpus: tuple[str, ...] = ()) -> Estimate:
        """With the prompt cache, if its size is configured."""
        found = with_prompt_cache(self.estimate(options, gpus), options.prompt_cache)
        if self.learned_margin == NO_MARGIN:
            return found
        devices = tuple(_with_margin(each, self.learned_margin.device_bytes) for each in found.devices)
        return replace(found, devices=devices, host=_with_margin(found.host, self.learned_margin.host_bytes))

    def without_spare_cache(self) -> PlacementRequest:
        """The same, without a prompt cache of automatic size."""
        if self.options.prompt_cache != AUTO_PROMPT_CACHE:
            return self
        return replace(self, options=replace(self.options, prompt_cache=0))

    @property
    def has_history(self) -> bool:
        """Whether its needs are not by the estimate alone."""
        return self.estimate_without_history is not None or self.learned_margin != NO_MARGIN

    def without_history(self) -> PlacementRequest:
        """The same by the estimate alone, whatever earlier starts were seen to need."""
        return replace(self, estimate=self.estimate_without_history or self.estimate, learned_margin=NO_MARGIN)

    def with_margin(self, learned_margin: LearnedMargin) -> PlacementRequest:
        """The same, with so much more on top."""
        return (
            self if learned_margin == NO_MARGIN else replace(self, learned_margin=self.learned_margin + learned_margin)
        )


def with_prompt_cache(estimate: Estimate, size_bytes: int) -> Estimate:
    """The estimate with so much RAM for the prompt cache; none for AUTO_PROMPT_CACHE, which depends on the machine."""
    if size_bytes <= 0:
        return estimate
    return replace(estimate, host=replace(estimate.host, prompt_cache_bytes=size_bytes))


def _with_margin(memory: DeviceMemory, extra_bytes: int) -> DeviceMemory:
    return replace(memory, margin_bytes=memory.margin_bytes + extra_bytes)
