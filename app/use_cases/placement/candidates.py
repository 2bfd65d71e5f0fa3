"""The places a model may have in a world, kind by kind. Which of them it gets is decided in placement.py."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate

from app.entities.launch import ALL_LAYERS, ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import CPU, Card, Placement, Resident, Strategy, shared_needs
from app.use_cases.placement.cards import (
    allowed,
    cheapest,
    enough,
    held_bytes,
    lacking,
    mib,
    name_of,
    once_left,
    place_in,
    placement_on,
    price,
)
from app.use_cases.placement.layer_split import deal, layer_bytes
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World

AUTO_CONTEXTS = (32768, 16384, 8192, 4096)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place, the servers that have to leave for it, and why it is one."""

    placement: Placement
    gone: tuple[Resident, ...]
    why: str


class EstimateCache:
    """What the model needs, worked out once for a decision and those within it."""

    def __init__(self, request: PlacementRequest) -> None:
        self.request = request
        self._estimates: dict[tuple[ModelOptions, tuple[str, ...]], Estimate] = {}
        self._layers: dict[ModelOptions, list[int]] = {}

    def of(self, options: ModelOptions, gpus: tuple[str, ...] = ()) -> Estimate:
        key = options, gpus
        if key not in self._estimates:
            self._estimates[key] = self.request.need(options, gpus)
        return self._estimates[key]

    def of_layers(self, options: ModelOptions) -> list[int]:
        """Weights and context of each layer that goes to GPUs."""
        whole = replace(options, n_gpu_layers=ALL_LAYERS)
        if whole not in self._layers:
            self._layers[whole] = layer_bytes(self.request.shape, whole)
        each = self._layers[whole]
        return each[max(0, len(each) - options.n_gpu_layers) :]


class Candidates:
    """Of one model in one world; what was looked at is `said`."""

    def __init__(self, needs: EstimateCache, world: World, options: ModelOptions | None = None) -> None:
        self.needs = needs
        self.constraints = needs.request.constraints
        self.options = options or needs.request.options
        self.world = world
        self.cards = allowed(world.cards, self.constraints) if self.options.n_gpu_layers else ()
        self.room = {card.uuid: card.usable_bytes for card in self.cards} | dict(world.shared)
        self.contexts = (options.ctx_size,) if options else contexts(needs.request)
        self.said: list[str] = []
        self._on_one_card: dict[tuple[str, int], Estimate] = {}  # by the card's model, and the context

    @property
    def is_for_the_cpu(self) -> bool:
        return not self.world.cards or not self.options.n_gpu_layers

    @property
    def shortest(self) -> ModelOptions:
        """With the context that is asked for where it costs something."""
        return replace(self.options, ctx_size=self.contexts[-1])

    def as_it_is(self) -> Candidate | None:
        """With nobody stopped."""
        if self.is_for_the_cpu:
            return self.on_the_cpu((), "")
        return self.on_one_that_is_free() or self.on_several(()) or self.with_less_on_gpus()

    def after(self, leaving: Sequence[Resident]) -> Candidate | None:
        """Once some of these have left."""
        if not leaving:
            return None
        if self.is_for_the_cpu:
            return self.on_the_cpu(leaving, "")
        return self.on_one_after(leaving, "ours") or self.on_several(leaving) or self.with_less_after(leaving)

    def least(self) -> Placement | None:
        """Where it needs the fewest bytes, whether they are there or not; None: there is no card it may use."""
        if self.is_for_the_cpu:
            return self.all_in_ram()
        on_one = (self._one(card, self.contexts[-1]) for card in self.cards)
        return min(on_one, key=lambda each: each.needed_bytes, default=None)

    # --- one card ------------------------------------------------------------------------------------------

    def on_one_that_is_free(self) -> Candidate | None:
        """In the longest context that fits any: the card that ranks first."""
        if self.constraints.min_gpus > 1:
            return None
        for ctx_size in self.contexts:
            fitting = [card for card in self.cards if not self._missing_on(card, ctx_size)]
            if self.cards:
                need = self._estimate_on(self.cards[0], ctx_size).devices[0].booked_bytes
                have = f"{len(fitting)} of {len(self.cards)} have it"
                self.said.append(f"one card, context {ctx_size}: needs {mib(need)}, {have}")
            if fitting:
                card = min(fitting, key=lambda card: self._rank(card, ctx_size))
                return Candidate(self._one(card, ctx_size), (), f"{name_of(card)} has room")
        return None

    def on_one_after(self, leaving: Sequence[Resident], what: str) -> Candidate | None:
        """A longer context is never worth a stop: the shortest is asked for."""
        if self.constraints.min_gpus > 1 or not leaving:
            return None
        ways, ctx_size = [], self.contexts[-1]
        for card in self.cards:
            gone = cheapest(leaving, self._missing_on(card, ctx_size))
            if gone is not None and self._estimate_on(card, ctx_size).devices[0].booked_bytes <= card.total_bytes:
                ways.append(((price(gone), self._rank(card, ctx_size)), card, gone))
        would = f"{len(ways)} of {len(self.cards)} would do"
        self.said.append(f"one card after stopping servers that are {what}: {would}")
        if not ways:
            return None
        _, card, gone = min(ways, key=lambda way: way[0])
        return Candidate(self._one(card, ctx_size), gone, f"{name_of(card)} has room{once_left(gone)}")

    def _one(self, card: Card, ctx_size: int) -> Placement:
        return self._on(card, self._alone(ctx_size))

    def _on(self, card: Card, options: ModelOptions) -> Placement:
        layers = min(options.n_gpu_layers, self._layer_count)
        return placement_on((card,), (layers,), options, self.needs.of(options, (card.name,)))

    def _estimate_on(self, card: Card, ctx_size: int) -> Estimate:
        """Cards of one model are alike."""
        key = card.name, ctx_size
        if key not in self._on_one_card:
            self._on_one_card[key] = self.needs.of(self._alone(ctx_size), (card.name,))
        return self._on_one_card[key]

    def _missing_on(self, card: Card, ctx_size: int) -> dict[str, int]:
        """What it lacks to be all on this card; empty if it fits."""
        estimate = self._estimate_on(card, ctx_size)
        needs = {card.uuid: estimate.devices[0].booked_bytes, **shared_needs(estimate)}
        return lacking(needs, self.room)

    def _alone(self, ctx_size: int) -> ModelOptions:
        return replace(self.options, ctx_size=ctx_size, devices=1, tensor_split=())

    @property
    def _layer_count(self) -> int:
        """The output counted as one."""
        return self.needs.request.shape.hparams.n_layer_all + 1

    def _rank(self, card: Card, ctx_size: int) -> tuple[object, ...]:
        """Cards named first, idle ones before busy ones, then by strategy."""
        left = card.usable_bytes - self._estimate_on(card, ctx_size).devices[0].booked_bytes
        return (
            place_in(self.world.policy.order, card),
            card.is_busy,
            left if self.world.policy.strategy is Strategy.PACK else -left,
            card.index,
        )

    # --- several cards -------------------------------------------------------------------------------------

    def on_several(self, leaving: Sequence[Resident]) -> Candidate | None:
        """The fewest cards, those with most room since no others hold more; then the fewest servers that leave."""
        largest = self._split_after(leaving, len(self._joinable))
        if largest is None:
            self.said.append(f"several cards{' after stopping servers' if leaving else ''}: not enough")
            return None
        count = len(largest[0].uuids)

        @cache
        def split(number: int) -> tuple[Placement, tuple[Resident, ...]] | None:
            return largest if number == len(leaving) else self._split_after(leaving[:number], count)

        # Room grows with every server that goes: only from where the bytes are enough at all is it looked at closely.
        numbers = range(len(leaving) + 1)
        numbers = numbers[bisect_left(numbers, True, key=lambda n: count in self._counts(held_bytes(leaving[:n]))) :]
        placement, leave = (
            split(numbers[bisect_left(numbers, True, key=lambda number: split(number) is not None)]) or largest
        )
        once = once_left(leave)
        self.said.append(f"{count} cards hold it{once}")
        at_least = f"it is to be on at least {self.constraints.min_gpus} GPUs"
        why = at_least if self.constraints.min_gpus > 1 else "no single card has room"
        return Candidate(placement, leave, f"{why}; {count} hold it together{once}")

    def _split_after(self, gone: Sequence[Resident], most: int) -> tuple[Placement, tuple[Resident, ...]] | None:
        """Over the fewest cards, so many at most, once these had left; and who of them has to."""
        back = held_bytes(gone)
        roomy = sorted(self._joinable, key=lambda card: (-_usable_with(card, back), card.index))
        for count in self._counts(back):
            placement = self._split(roomy[:count], back) if count <= most else None
            leave = enough(gone, lacking(placement.needs, self.room)) if placement else None
            if placement and leave is not None:
                return placement, leave
        return None

    @cached_property
    def _joinable(self) -> list[Card]:
        return [card for card in self.cards if not card.is_mig]

    def _counts(self, back: Mapping[str, int]) -> list[int]:
        """How many of the cards to try, the roomiest first: those numbers that have enough bytes between them."""
        if len(self._joinable) < 2:
            return []
        room = sorted((_usable_with(card, back) for card in self._joinable), reverse=True)
        most = min(len(room), self.constraints.max_gpus or len(room), len(self._layers))
        sums = [0, *accumulate(room)]
        counts = range(max(2, self.constraints.min_gpus), most + 1)
        return [count for count in counts if sums[count] >= self._whole_bytes + count * self._card_bytes]

    @cached_property
    def _layers(self) -> list[int]:
        """With the context a split gets."""
        return self.needs.of_layers(self.shortest)

    @cached_property
    def _whole_bytes(self) -> int:
        return sum(self._layers)

    @cached_property
    def _card_bytes(self) -> int:
        """The least that each card of a split takes beside its layers."""
        alone = self._alone(self.contexts[-1])
        return min(self.needs.of(alone, (name,)).devices[0].overhead_bytes for name in {c.name for c in self._joinable})

    def _split(self, cards: Sequence[Card], back: Mapping[str, int], n_gpu_layers: int = 0) -> Placement | None:
        """All its layers on these cards, or so many."""
        usable = [_usable_with(card, back) for card in cards]
        names = tuple(card.name for card in cards)
        options = replace(self.shortest, n_gpu_layers=n_gpu_layers or self.options.n_gpu_layers)
        layers = self.needs.of_layers(options)
        found = deal(layers, options, usable, self._card_bytes, lambda split: self.needs.of(split, names))
        if found is None:
            return None
        split, estimate = found
        return placement_on(cards, tuple(map(int, split.tensor_split)), options, estimate)

    def with_less_on_gpus(self) -> Candidate | None:
        """By policy only, and in the context that a split would get."""
        cards = sorted(self.cards, key=lambda card: (-card.usable_bytes, card.index))
        if self.constraints.cpu_moe and self.constraints.min_gpus == 1 and cards:
            but_experts = replace(self._alone(self.contexts[-1]), n_cpu_moe=ALL_LAYERS)
            if found := self._if_it_fits(cards[0], but_experts):
                return Candidate(found, (), f"{name_of(cards[0])} has room for all but the experts, which stay in RAM")
        if self.constraints.partial_offload and (found := self._most_layers(cards)):
            on = " and ".join(name_of(card) for card in cards if card.uuid in found.uuids)
            what = f"{found.n_gpu_layers} layers, the others stay in RAM"
            return Candidate(found, (), f"of {self._layer_count} layers there is room for {what}: {on}")
        return self.on_the_cpu((), "no GPU has room") if self.constraints.cpu_when_full else None

    def with_less_after(self, leaving: Sequence[Resident]) -> Candidate | None:
        """The same once some of these have left."""
        if not leaving:
            return None
        found = Candidates(self.needs, self.world.without(leaving), self.shortest).with_less_on_gpus()
        gone = enough(leaving, lacking(found.placement.needs, self.room)) if found else None
        if found is None or gone is None:
            return None
        return Candidate(found.placement, gone, f"{found.why}{once_left(gone)}")

    def _most_layers(self, cards: Sequence[Card]) -> Placement | None:
        """On the roomiest card, or on as many as it may have if together they hold more."""
        joinable = [card for card in cards if not card.is_mig and card.usable_bytes > self._card_bytes]
        joinable = joinable[: self.constraints.max_gpus]
        best = None
        if cards and self.constraints.min_gpus == 1:
            alone = self._alone(self.contexts[-1])
            best = self._largest(lambda count: self._if_it_fits(cards[0], replace(alone, n_gpu_layers=count)))
        if len(joinable) >= max(2, self.constraints.min_gpus):
            together = self._largest(lambda count: self._split(joinable, {}, count))
            if together and not lacking(together.needs, self.room):
                best = max(best or together, together, key=lambda each: each.n_gpu_layers)
        return best

    def _largest(self, place: Callable[[int], Placement | None]) -> Placement | None:
        """With the most layers on GPUs: more need more."""
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
        return None if lacking(placement.needs, self.room) else placement

    def on_the_cpu(self, leaving: Sequence[Resident], why: str) -> Candidate | None:
        placement = self.all_in_ram()
        gone = cheapest(leaving, lacking(placement.needs, self.room))
        if gone is None:
            return None
        return Candidate(placement, gone, f"{why}; RAM has room{once_left(gone)}")

    def all_in_ram(self) -> Placement:
        options = replace(self._alone(self.contexts[-1]), devices=0, n_gpu_layers=0)
        return Placement((CPU,), (), 0, options.ctx_size, 0, self.needs.of(options))


def _usable_with(card: Card, back: Mapping[str, int]) -> int:
    """Never more than there is: some of what comes back may be free already."""
    return min(card.total_bytes, card.usable_bytes + back.get(card.uuid, 0))


def longest_context(request: PlacementRequest) -> int:
    """Tokens that one request may have at most, wherever the model is loaded; 0: nobody says."""
    options = request.options
    return contexts(request)[0] // (1 if options.kv_unified else max(1, options.parallel))


def contexts(request: PlacementRequest) -> tuple[int, ...]:
    """The contexts to try, the longest first: those of "auto" that are not above the model's own, or the one asked."""
    trained = request.shape.hparams.integer("context_length")
    if not request.constraints.has_auto_context:
        return (request.options.ctx_size or trained,)
    return tuple(each for each in AUTO_CONTEXTS if each <= trained) or (trained or AUTO_CONTEXTS[-1],)
