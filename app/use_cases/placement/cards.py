"""Cards: which GPUs a model may use, what they lack for it, and how reasons name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from app.entities.gpu import NamedGpu, names_of
from app.entities.launch import ALL_LAYERS, ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import Card, Placement, PlacementConstraints

MIB = 1024**2


G = TypeVar("G", bound=NamedGpu)


def allowed_cards(cards: Iterable[G], constraints: PlacementConstraints) -> tuple[G, ...]:
    """The GPUs that a model's `gpus` and `exclude` permit."""
    return tuple(
        card
        for card in cards
        if (not constraints.gpus or matches_any(card, constraints.gpus)) and not matches_any(card, constraints.exclude)
    )


def matches_any(gpu: NamedGpu, names: Iterable[str]) -> bool:
    """Whether one of `names` is the GPU's UUID, product name or index."""
    return any(name in names_of(gpu) for name in names)


def unmatched_names(named: Mapping[str, Iterable[str]], gpus: Sequence[NamedGpu]) -> tuple[str, ...]:
    """A line for each name in the settings (by key) that none of these GPUs has."""
    known = {name for gpu in gpus for name in names_of(gpu)}
    there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in gpus)
    return tuple(
        f"{key}: {name!r} matches no GPU; there are: {there}"
        for key, names in named.items()
        for name in names
        if name not in known
    )


def can_split(card: Card) -> bool:
    """Whether it can be one of a model's GPUs. llama.cpp uses an integrated GPU only where there is no other."""
    return not (card.is_mig or card.is_unified)


def position_in(order: Sequence[str], card: Card) -> int:
    """Index of the GPU in a preference list; its length if the GPU is not listed."""
    return next((position for position, name in enumerate(order) if matches_any(card, (name,))), len(order))


def shortfall(needs: Mapping[str, int], free: Mapping[str, int]) -> dict[str, int]:
    """Missing bytes by resource; empty if everything fits. A resource that `free` does not list is unlimited."""
    return {what: need - free[what] for what, need in needs.items() if what in free and need > free[what]}


def placement_on(
    cards: Sequence[Card], layers: tuple[int, ...], options: ModelOptions, estimate: Estimate
) -> Placement:
    """A placement with `layers[i]` layers on `cards[i]`."""
    return Placement(
        uuids=tuple(card.uuid for card in cards),
        layers=layers,
        n_gpu_layers=options.n_gpu_layers,
        ctx_size=options.ctx_size,
        n_cpu_moe=options.n_cpu_moe,
        estimate=estimate,
        indices=tuple(card.index for card in cards),
        names=tuple(card.name for card in cards),
        unified=tuple(card.uuid for card in cards if card.is_unified),
        vulkan_numbers=tuple(card.vulkan_number for card in cards if card.vulkan_number is not None),
    )


def placement_rank(placement: Placement) -> int:
    """Lower is better: 1 is all layers on one GPU, then by number of GPUs, then with parts in RAM; the CPU is worst.

    With parts of the model in RAM, the number of layers on GPUs counts first.
    """
    if placement.is_on_cpu:
        return 100_000
    is_partial = placement.n_gpu_layers < ALL_LAYERS or placement.n_cpu_moe > 0
    in_ram = max(0, ALL_LAYERS - placement.n_gpu_layers)
    return len(placement.uuids) + (1_000 + 50 * in_ram if is_partial else 0)


def format_mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def describe_card(card: Card) -> str:
    return f"GPU {card.index} ({_kind(card)})"


def _kind(card: Card) -> str:
    return f"{card.name}{', drives a display' if card.drives_display else ''}"


def usable_text(cards: Sequence[Card]) -> str:
    """What is usable of each card; cards alike are named together, as in "GPUs 0, 1, 2 (NVIDIA L4) 1,200 MiB each"."""
    alike: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        alike.setdefault((_kind(card), format_mib(max(0, card.usable_bytes))), []).append(card)
    return ", ".join(_usable(same, kind, size) for (kind, size), same in alike.items())


def _usable(cards: Sequence[Card], kind: str, size: str) -> str:
    if len(cards) == 1:
        return f"{describe_card(cards[0])} {size}"
    return f"GPUs {', '.join(str(card.index) for card in cards)} ({kind}) {size} each"
