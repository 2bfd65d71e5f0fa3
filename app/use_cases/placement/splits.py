"""Splits: the placements of one model over several GPUs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import accumulate

from app.entities.launch import ModelOptions
from app.entities.placement import Card, Placement, Resident
from app.use_cases.estimate.shared_tensors import SHARED_MODES, can_share
from app.use_cases.placement.cards import can_split, placement_on, shortfall
from app.use_cases.placement.estimate_cache import EstimateCache
from app.use_cases.placement.layer_split import share_tensors, split_layers
from app.use_cases.placement.victims import memory_held_by, sufficient_victims

Split = tuple[Placement, tuple[Resident, ...]]  # and the servers to evict for it


class Splits:
    """Finds splits over those of `cards` that can be split over. `free` and `held` are bytes by resource."""

    def __init__(
        self, estimates: EstimateCache, cards: Sequence[Card], free: Mapping[str, int], options: ModelOptions
    ) -> None:
        self.estimates = estimates
        self.constraints = estimates.request.constraints
        self.cards = [card for card in cards if can_split(card)]
        self.free = free
        self.options = options

    def with_eviction(self, servers: Sequence[Resident]) -> Split | None:
        """The fewest cards, then the fewest evictions among `servers`, cheapest first."""
        largest = self._after_evicting(servers, len(self.cards))
        if largest is None:
            return None
        count = len(largest[0].uuids)

        @cache
        def split(number: int) -> Split | None:
            return largest if number == len(servers) else self._after_evicting(servers[:number], count)

        # Free memory grows with every eviction: splits are tried only from where the bytes suffice in total.
        numbers = range(len(servers) + 1)
        first = bisect_left(numbers, True, key=lambda n: count in self._card_counts(memory_held_by(servers[:n])))
        numbers = numbers[first:]
        number = numbers[bisect_left(numbers, True, key=lambda number: split(number) is not None)]
        return split(number) or largest

    def over(self, cards: Sequence[Card], held: Mapping[str, int], n_gpu_layers: int = 0) -> Placement | None:
        """`n_gpu_layers` layers, or all, over all of `cards` once `held` is free; None if they do not fit."""
        usable = [_usable_with(card, held) for card in cards]
        names = tuple(card.name for card in cards)
        options = replace(self.options, n_gpu_layers=n_gpu_layers) if n_gpu_layers else self.options
        if self.shares_tensors:
            return self._shared_over(cards, usable, options)
        layers, overhead = self.estimates.layer_bytes(options), self.min_overhead_bytes
        found = split_layers(layers, options, usable, overhead, lambda split: self.estimates.estimate(split, names))
        if found is None:
            return None
        split, estimate = found
        return placement_on(cards, tuple(map(int, split.tensor_split)), options, estimate)

    @property
    def shares_tensors(self) -> bool:
        """Whether each GPU gets a part of every tensor, instead of some of the layers."""
        return can_share(self.estimates.request.shape.hparams.architecture, self.options)

    @property
    def mode_text(self) -> str:
        """For a reason: how the model is split, if that is not by layers as usual."""
        if self.options.split_mode not in SHARED_MODES:
            return ""
        architecture = self.estimates.request.shape.hparams.architecture
        cannot = f", split by layers: llama.cpp has no split mode {self.options.split_mode} for {architecture}"
        return f" in split mode {self.options.split_mode}" if self.shares_tensors else cannot

    def _shared_over(self, cards: Sequence[Card], usable: Sequence[int], options: ModelOptions) -> Placement | None:
        names = tuple(card.name for card in cards)
        found = share_tensors(options, usable, lambda split: self.estimates.estimate(split, names))
        if found is None:
            return None
        layers = min(options.n_gpu_layers, len(self._layers))
        placement = placement_on(cards, (layers,) * len(cards), options, found[1])
        return replace(placement, shares=tuple(map(int, found[0].tensor_split)))

    @cached_property
    def min_overhead_bytes(self) -> int:
        """The least that each card of a split needs beside its layers."""
        options = replace(self.options, devices=1, tensor_split=())
        names = {card.name for card in self.cards}
        return min(self.estimates.estimate(options, (name,)).devices[0].overhead_bytes for name in names)

    def _after_evicting(self, servers: Sequence[Resident], max_cards: int) -> Split | None:
        """A split over the fewest cards, `max_cards` at most, with `servers` gone; and which of them to evict."""
        held = memory_held_by(servers)
        for count in self._card_counts(held):
            for cards in self._most_usable(count, held) if count <= max_cards else ():
                placement = self.over(cards, held)
                victims = sufficient_victims(servers, shortfall(placement.needs, self.free)) if placement else None
                if placement and victims is not None:
                    return placement, victims
        return None

    def _most_usable(self, count: int, held: Mapping[str, int]) -> Iterator[Sequence[Card]]:
        """The cards with the most usable bytes: first with as few as possible that drive a display, then of all."""
        cards = sorted(self.cards, key=lambda card: (-_usable_with(card, held), card.index))
        displays_last = sorted(cards, key=lambda card: card.drives_display)
        if displays_last[:count] != cards[:count]:
            yield displays_last[:count]
        yield cards[:count]

    def _card_counts(self, held: Mapping[str, int]) -> list[int]:
        """Numbers of cards that have enough bytes together once `held` is free, taking those with the most first."""
        if len(self.cards) < 2:
            return []
        usable = sorted((_usable_with(card, held) for card in self.cards), reverse=True)
        most = min(len(usable), self.constraints.max_gpus or len(usable), len(self._layers))
        sums = [0, *accumulate(usable)]
        counts = range(max(2, self.constraints.min_gpus), most + 1)
        return [count for count in counts if sums[count] >= self._model_bytes + count * self.min_overhead_bytes]

    @cached_property
    def _layers(self) -> Sequence[int]:
        return self.estimates.layer_bytes(self.options)

    @cached_property
    def _model_bytes(self) -> int:
        return sum(self._layers)


def _usable_with(card: Card, held: Mapping[str, int]) -> int:
    """Usable bytes once `held` is released, at most the card's total: some of it may already count as free."""
    return min(card.total_bytes, card.usable_bytes + held.get(card.uuid, 0))
