"""Candidate placements of one model in one world, kind by kind. placement.py decides which of them it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from app.entities.launch import ALL_LAYERS, ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import CPU, Card, Placement, Resident, Strategy, shared_resources_needed
from app.use_cases.placement.cards import (
    allowed_cards,
    can_split,
    describe_card,
    format_mib,
    placement_on,
    position_in,
    shortfall,
)
from app.use_cases.placement.estimate_cache import EstimateCache
from app.use_cases.placement.splits import Splits
from app.use_cases.placement.victims import (
    after_evicting,
    cheapest_victims,
    eviction_price,
    sufficient_victims,
)
from app.use_cases.placement.world import World


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible placement, the servers to evict for it, and the reason for it."""

    placement: Placement
    victims: tuple[Resident, ...]
    reason: str


class Candidates:
    """Finds candidate placements. `considered` collects a line for each kind that was tried.

    Methods that take `servers` may evict some of these, cheapest first. `free` is bytes by resource.
    """

    def __init__(self, estimates: EstimateCache, world: World, options: ModelOptions | None = None) -> None:
        self.estimates = estimates
        self.constraints = estimates.request.constraints
        self.options = options or estimates.request.options
        self.world = world
        self.cards = allowed_cards(world.cards, self.constraints) if self.options.n_gpu_layers else ()
        own_memory = {card.uuid: card.usable_bytes for card in self.cards if not card.is_unified}
        self.free = own_memory | dict(world.shared)
        self.splits = Splits(estimates, self.cards, self.free, self.options)
        self.considered: list[str] = []
        self._on_one_card: dict[str, Estimate] = {}  # by product name

    @property
    def is_cpu_only(self) -> bool:
        return not self.world.cards or not self.options.n_gpu_layers

    def without_eviction(self) -> Candidate | None:
        if self.is_cpu_only:
            return self.on_cpu((), "")
        return self.on_free_card() or self.on_several_cards(()) or self.with_parts_in_ram()

    def with_eviction(self, servers: Sequence[Resident]) -> Candidate | None:
        """None if it does not fit even with all of `servers` evicted."""
        if not servers:
            return None
        if self.is_cpu_only:
            return self.on_cpu(servers, "")
        return (
            self.on_card_with_eviction(servers, "our")
            or self.on_several_cards(servers)
            or self.with_parts_in_ram_and_eviction(servers)
        )

    def smallest(self) -> Placement | None:
        """The placement that needs the fewest bytes, whether they are free or not; None without an allowed GPU."""
        if self.is_cpu_only:
            return self.cpu_placement()
        on_one = (self._on_one(card) for card in self.cards)
        return min(on_one, key=lambda placement: placement.needed_bytes, default=None)

    # --- one card ------------------------------------------------------------------------------------------

    def on_free_card(self) -> Candidate | None:
        """The highest-ranking card that has enough memory."""
        if self.constraints.min_gpus > 1 or not self.cards:
            return None
        fitting = [card for card in self.cards if not self._missing_on(card)]
        need = self._estimate_on(self.cards[0]).devices[0].booked_bytes
        count = f"{len(fitting)} of {len(self.cards)} have enough free"
        self.considered.append(f"one GPU, context {self.options.ctx_size}: needs {format_mib(need)}, {count}")
        if not fitting:
            return None
        card = min(fitting, key=self._rank)
        reason = f"fits on {describe_card(card)}{self._displays_passed_over(card, fitting)}"
        return Candidate(self._on_one(card), (), reason)

    def on_card_with_eviction(self, servers: Sequence[Resident], which: str) -> Candidate | None:
        """`which` describes `servers`."""
        if self.constraints.min_gpus > 1 or not servers:
            return None
        options = []
        for card in self.cards:
            victims = cheapest_victims(servers, self._missing_on(card))
            if victims is not None and self._estimate_on(card).devices[0].booked_bytes <= card.total_bytes:
                options.append(((eviction_price(victims), self._rank(card)), card, victims))
        count = f"fits on {len(options)} of {len(self.cards)}"
        self.considered.append(f"one GPU after evicting {which} servers: {count}")
        if not options:
            return None
        _, card, victims = min(options, key=lambda option: option[0])
        return Candidate(self._on_one(card), victims, f"fits on {describe_card(card)}{after_evicting(victims)}")

    def _on_one(self, card: Card) -> Placement:
        return self._on(card, self._one_card_options)

    def _on(self, card: Card, options: ModelOptions) -> Placement:
        layers = min(options.n_gpu_layers, self._layer_count)
        return placement_on((card,), (layers,), options, self.estimates.estimate(options, (card.name,)))

    def _estimate_on(self, card: Card) -> Estimate:
        """The same for all cards of one product name."""
        if card.name not in self._on_one_card:
            self._on_one_card[card.name] = self.estimates.estimate(self._one_card_options, (card.name,))
        return self._on_one_card[card.name]

    def _missing_on(self, card: Card) -> dict[str, int]:
        """What is missing for the whole model on this card; empty if it fits."""
        estimate = self._estimate_on(card)
        on_card, in_ram = estimate.devices[0].booked_bytes, estimate.host.booked_bytes
        if card.is_unified:
            return shortfall(shared_resources_needed(in_ram + on_card), self.free)
        return shortfall({card.uuid: on_card, **shared_resources_needed(in_ram)}, self.free)

    @cached_property
    def _one_card_options(self) -> ModelOptions:
        return replace(self.options, devices=1, tensor_split=())

    @property
    def _layer_count(self) -> int:
        """The output counts as one layer."""
        return self.estimates.request.shape.hparams.n_layer_all + 1

    def _rank(self, card: Card) -> tuple[object, ...]:
        """Sort key: preferred cards, those with memory of their own, idle before busy ones, those without a display,
        then by strategy."""
        left = card.usable_bytes - self._estimate_on(card).devices[0].booked_bytes
        return (
            position_in(self.world.policy.order, card),
            card.is_unified,
            card.is_busy,
            card.drives_display,
            left if self.world.policy.strategy is Strategy.PACK else -left,
            card.index,
        )

    def _displays_passed_over(self, chosen: Card, fitting: Sequence[Card]) -> str:
        """Tail of a reason: the cards that would have come before the chosen one if they drove no display."""
        rank = self._rank(chosen)
        others = (card for card in fitting if card.drives_display and card is not chosen)
        first = [card for card in others if self._rank(replace(card, drives_display=False)) < rank]
        return f"; used last: {', '.join(map(describe_card, first))}" if first else ""

    # --- several cards -------------------------------------------------------------------------------------

    def on_several_cards(self, servers: Sequence[Resident]) -> Candidate | None:
        """The fewest cards, then the fewest evictions. Cards with the most usable memory come first."""
        found = self.splits.with_eviction(servers)
        if found is None:
            after = " after evicting servers" if servers else ""
            self.considered.append(f"several GPUs{after}: not enough memory")
            return None
        placement, victims = found
        count, min_gpus, after = len(placement.uuids), self.constraints.min_gpus, after_evicting(victims)
        self.considered.append(f"split over {count} GPUs{after}")
        why = f"min_gpus is {min_gpus}" if min_gpus > 1 else "no single GPU has enough memory"
        return Candidate(placement, victims, f"{why}; fits on {count} GPUs together{self.splits.mode_text}{after}")

    # --- parts of the model, or all of it, in RAM ----------------------------------------------------------

    def with_parts_in_ram(self) -> Candidate | None:
        """Experts, some layers or the whole model in RAM, if the settings permit."""
        cards = sorted(self.cards, key=lambda card: (-card.usable_bytes, card.index))
        if self.constraints.cpu_moe and self.constraints.min_gpus == 1 and cards:
            without_experts = replace(self._one_card_options, n_cpu_moe=ALL_LAYERS)
            if found := self._if_it_fits(cards[0], without_experts):
                return Candidate(found, (), f"fits on {describe_card(cards[0])} with the experts in RAM")
        if self.constraints.partial_offload and (found := self._most_layers(cards)):
            on = " and ".join(describe_card(card) for card in cards if card.uuid in found.uuids)
            layers = f"{found.n_gpu_layers} of {self._layer_count} layers"
            return Candidate(found, (), f"{layers} fit on {on}, the rest stay in RAM")
        return self.on_cpu((), "no GPU has enough memory") if self.constraints.cpu_when_full else None

    def with_parts_in_ram_and_eviction(self, servers: Sequence[Resident]) -> Candidate | None:
        if not servers:
            return None
        found = Candidates(self.estimates, self.world.after_eviction(servers), self.options).with_parts_in_ram()
        victims = sufficient_victims(servers, shortfall(found.placement.needs, self.free)) if found else None
        if found is None or victims is None:
            return None
        return Candidate(found.placement, victims, f"{found.reason}{after_evicting(victims)}")

    def _most_layers(self, cards: Sequence[Card]) -> Placement | None:
        """The most layers on GPUs: on the first card, or on as many as permitted if these hold more."""
        splittable = [card for card in cards if can_split(card) and card.usable_bytes > self.splits.min_overhead_bytes]
        splittable = splittable[: self.constraints.max_gpus]
        best = None
        if cards and self.constraints.min_gpus == 1:
            options = self._one_card_options
            best = self._largest(lambda count: self._if_it_fits(cards[0], replace(options, n_gpu_layers=count)))
        if len(splittable) >= max(2, self.constraints.min_gpus):
            together = self._largest(lambda count: self.splits.over(splittable, {}, count))
            if together and not shortfall(together.needs, self.free):
                best = max(best or together, together, key=lambda placement: placement.n_gpu_layers)
        return best

    def _largest(self, place: Callable[[int], Placement | None]) -> Placement | None:
        """The placement with the most layers for which `place` finds one, by bisection."""
        low, high, best = 1, min(self.options.n_gpu_layers, self._layer_count) - 1, None
        while low <= high:
            middle = (low + high) // 2
            if found := place(middle):
                low, best = middle + 1, found
            else:
                high = middle - 1
        return best

    def _if_it_fits(self, card: Card, options: ModelOptions) -> Placement | None:
        placement = self._on(card, options)
        return None if shortfall(placement.needs, self.free) else placement

    def on_cpu(self, servers: Sequence[Resident], why: str) -> Candidate | None:
        """The whole model in RAM; `why` not on a GPU."""
        placement = self.cpu_placement()
        victims = cheapest_victims(servers, shortfall(placement.needs, self.free))
        if victims is None:
            return None
        return Candidate(placement, victims, f"{why}; fits in RAM{after_evicting(victims)}")

    def cpu_placement(self) -> Placement:
        options = self.options.without_gpus
        return Placement((CPU,), (), 0, options.ctx_size, 0, self.estimates.estimate(options))
