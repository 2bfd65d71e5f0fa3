"""Places for a model that no GPU holds whole: its experts, or some of its layers, in RAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.entities.launch import ALL_LAYERS, MemoryOptions
from app.entities.memory import Estimate
from app.entities.placement import Card, Placement
from app.use_cases.cards import placement_on


@dataclass(frozen=True, slots=True)
class OneCard:
    """A card, and what the model needs on it."""

    card: Card
    layer_count: int  # of the model, the output counted as one
    need: Callable[[MemoryOptions], Estimate]


def with_experts_in_ram(on: OneCard, options: MemoryOptions) -> Placement | None:
    """All layers on the card, but for their experts."""
    estimate = on.need(replace(options, n_cpu_moe=ALL_LAYERS))
    if estimate.devices[0].booked_bytes > on.card.usable_bytes:
        return None
    layers = min(options.n_gpu_layers, on.layer_count)
    return placement_on((on.card,), (layers,), replace(options, n_cpu_moe=ALL_LAYERS), estimate)


def with_layers_in_ram(on: OneCard, options: MemoryOptions) -> Placement | None:
    """As many layers on the card as it holds."""
    low, high, best = 1, min(options.n_gpu_layers, on.layer_count) - 1, None
    while low <= high:  # more layers need more
        middle = (low + high) // 2
        estimate = on.need(replace(options, n_gpu_layers=middle))
        if estimate.devices[0].booked_bytes <= on.card.usable_bytes:
            best = placement_on((on.card,), (middle,), replace(options, n_gpu_layers=middle), estimate)
            low = middle + 1
        else:
            high = middle - 1
    return best
