"""Chooses the place of a model: one GPU that is free, one after stopping idle servers, else the fewest that hold it.

Greedy, and each step leaves its numbers behind. Pure: the same world gives the same decision. RAM is looked at with the
GPUs: a model with all its layers on one still takes some.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import accumulate

from app.entities.launch import ALL_LAYERS, MemoryOptions
from app.entities.memory import Estimate
from app.entities.placement import (
    BOOKS,
    CPU,
    Card,
    Decision,
    Outcome,
    Placement,
    Policy,
    Resident,
    Strategy,
    shared_needs,
)
from app.use_cases.asked import Asked
from app.use_cases.cards import (
    allowed,
    cost_of_stopping,
    enough,
    held_bytes,
    lacking,
    mib,
    name_of,
    names_of,
    place_in,
    placement_on,
)
from app.use_cases.deal_layers import deal, layer_bytes

AUTO_CONTEXTS = (32768, 16384, 8192, 4096)


@dataclass(frozen=True, slots=True)
class World:
    """The cards, the servers on them, and what all places share: RAM (CPU, BOOKS) and PLACES. What is not named there
    is not short."""

    cards: tuple[Card, ...]
    residents: tuple[Resident, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    leaving: Mapping[str, int] = field(default_factory=dict)  # of `shared`: on its way back
    totals: Mapping[str, int] = field(default_factory=dict)  # of `shared`: if no server were there, nor a stranger
    policy: Policy = field(default_factory=Policy)

    @property
    def is_coming_back(self) -> bool:
        """Whether memory is on its way back."""
        return any(self.leaving.values()) or any(card.leaving_bytes for card in self.cards)

    def once_it_is_back(self) -> World:
        cards = tuple(_with_more(card, card.leaving_bytes) for card in self.cards)
        return replace(self, cards=cards, shared=_sum(self.shared, self.leaving), leaving={})

    def without(self, gone: Sequence[Resident]) -> World:
        """Once these servers have left."""
        back = held_bytes(gone)
        cards = tuple(_with_more(card, back.get(card.uuid, 0)) for card in self.cards)
        staying = tuple(each for each in self.residents if each not in gone)
        return replace(self, cards=cards, residents=staying, shared=_sum(self.shared, back))

    def empty(self) -> World:
        """Nobody else on the machine."""
        cards = tuple(replace(card, usable_bytes=card.total_bytes, leaving_bytes=0) for card in self.cards)
        return World(cards, shared={**self.shared, **self.totals}, totals=self.totals, policy=self.policy)


def _with_more(card: Card, back: int) -> Card:
    return replace(card, usable_bytes=min(card.total_bytes, card.usable_bytes + back), leaving_bytes=0)


def _sum(shared: Mapping[str, int], back: Mapping[str, int]) -> dict[str, int]:
    return {what: free + back.get(what, 0) for what, free in shared.items()}


def decide(asked: Asked, world: World) -> Decision:
    """Where the model goes, what has to leave for it first, or why there is no place.

    What is on its way back is not free yet, and no reason to stop another server: a place that it makes is waited for,
    if it is better than the one there is.
    """
    needs = _Needs(asked)
    now = _Deciding(needs, world).decide()
    if not world.is_coming_back or (now.outcome is Outcome.PLACE and _rank(now) == 1):
        return now
    soon = _Deciding(needs, world.once_it_is_back()).decide()
    if soon.outcome is Outcome.PLACE and _rank(soon) < _rank(now):
        reason = f"it has room once memory that is coming back is there: {soon.reason}"
        return replace(now, outcome=Outcome.WAIT, reason=reason, placement=None, evict=(), nearest="", for_ever=False)
    return now if now.outcome is Outcome.PLACE else replace(soon, free_bytes=now.free_bytes)


def _rank(decision: Decision) -> int:
    """How good a place is: the fewer GPUs the better, and all layers on one the best. None is the worst."""
    placement = decision.placement
    if placement is None or decision.outcome is not Outcome.PLACE:
        return 1_000_000
    if placement.is_on_cpu:
        return 100_000
    is_partial = placement.n_gpu_layers < ALL_LAYERS or placement.n_cpu_moe > 0
    return len(placement.uuids) + (1_000 if is_partial else 0)


class _Needs:
    """What the model needs, worked out once for a decision and those within it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._estimates: dict[tuple[MemoryOptions, tuple[str, ...]], Estimate] = {}
        self._layers: dict[MemoryOptions, list[int]] = {}

    def of(self, options: MemoryOptions, gpus: tuple[str, ...] = ()) -> Estimate:
        key = options, gpus
        if key not in self._estimates:
            self._estimates[key] = self.asked.need(options, gpus)
        return self._estimates[key]

    def of_layers(self, options: MemoryOptions) -> list[int]:
        """Weights and context of each layer that goes to GPUs."""
        if options not in self._layers:
            each = layer_bytes(self.asked.shape, options)
            self._layers[options] = each[max(0, len(each) - options.n_gpu_layers) :]
        return self._layers[options]


class _Deciding:
    """One decision; its steps in their order."""

    def __init__(self, needs: _Needs, world: World, options: MemoryOptions | None = None) -> None:
        self.needs = needs
        self.wishes = needs.asked.wishes
        self.options = options or needs.asked.options
        self.world = world
        self.cards = allowed(world.cards, self.wishes) if self.options.n_gpu_layers else ()
        self.room = {card.uuid: card.usable_bytes for card in self.cards} | dict(world.shared)
        self.said: list[str] = []  # the steps so far
        self._on_one_card: dict[tuple[str, int], Estimate] = {}  # by the card's model, and the context
        self.contexts = (options.ctx_size,) if options else _contexts(needs.asked)

    def decide(self) -> Decision:
        """The first step that finds a place decides."""
        return self._with_those_idle() or self._waiting() or self._refused()

    def _with_those_idle(self) -> Decision | None:
        cheap, idle = self._cheap(), self._idle
        if self.is_for_the_cpu:
            why = "there is no GPU" if not self.world.cards else "it is to have no layers on GPUs"
            return self._on_the_cpu((), why) or self._on_the_cpu(idle, why)
        return (
            self._on_one_that_is_free()
            or self._on_one_after(cheap, "idle for long")
            or self._on_several(())
            or (self._on_several(cheap) if cheap else None)
            or self._on_one_after(idle, "idle")
            or (self._on_several(idle) if idle else None)
            or self._with_less_on_gpus()
        )

    @property
    def is_for_the_cpu(self) -> bool:
        return not self.world.cards or not self.options.n_gpu_layers

    # --- one card ------------------------------------------------------------------------------------------

    def _on_one_that_is_free(self) -> Decision | None:
        if self.wishes.min_gpus > 1:
            return None
        for ctx_size in self.contexts:
            fitting = [card for card in self.cards if not self._missing_on(card, ctx_size)]
            if self.cards:
                need = self._estimate_on(self.cards[0], ctx_size).devices[0].booked_bytes
                have = f"{len(fitting)} of {len(self.cards)} have it"
                self._say(f"one card, context {ctx_size}: needs {mib(need)}, {have}")
            if fitting:
                card = min(fitting, key=lambda card: self._rank(card, ctx_size))
                return self._placed(self._one(card, ctx_size), (), f"{name_of(card)} has room")
        return None

    def _on_one_after(self, leaving: Sequence[Resident], what: str) -> Decision | None:
        """A longer context is never worth a stop: the shortest is asked for."""
        if self.wishes.min_gpus > 1 or not leaving:
            return None
        ways, ctx_size = [], self.contexts[-1]
        for card in self.cards:
            gone = enough(leaving, self._missing_on(card, ctx_size))
            if gone is not None:
                cost = (any(each.is_busy for each in gone), sum(map(cost_of_stopping, gone)))
                ways.append(((cost, self._rank(card, ctx_size)), card, gone))
        self._say(f"one card after stopping servers that are {what}: {len(ways)} ways")
        if not ways:
            return None
        _, card, gone = min(ways, key=lambda way: way[0])
        return self._placed(self._one(card, ctx_size), gone, f"{name_of(card)} has room once {names_of(gone)} left")

    def _one(self, card: Card, ctx_size: int) -> Placement:
        options = self._alone(ctx_size)
        layers = min(options.n_gpu_layers, self._layer_count)
        return placement_on((card,), (layers,), options, self._estimate_on(card, ctx_size))

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

    def _alone(self, ctx_size: int) -> MemoryOptions:
        return replace(self.options, ctx_size=ctx_size, devices=1, tensor_split=())

    @property
    def _layer_count(self) -> int:
        """The output counted as one."""
        return self.needs.asked.shape.hparams.n_layer_all + 1

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

    def _on_several(self, leaving: Sequence[Resident]) -> Decision | None:
        """The fewest cards: those with most room, since no others hold more."""

        @cache
        def split(number: int) -> tuple[Placement, tuple[Resident, ...]] | None:
            return self._split_after(leaving[:number])

        # Room grows with every server that goes: only from where the bytes are enough at all is it looked at closely.
        numbers = range(1, len(leaving) + 1) if leaving else range(1)
        numbers = numbers[bisect_left(numbers, True, key=lambda n: bool(self._counts(held_bytes(leaving[:n])))) :]
        if numbers and split(numbers[-1]):
            found = split(numbers[bisect_left(numbers, True, key=lambda number: split(number) is not None)])
            assert found is not None, "with fewer gone there may be no split, with those there is"
            placement, leave = found
            count, once = len(placement.uuids), f" once {names_of(leave)} left" if leave else ""
            self._say(f"{count} cards hold it{once}")
            return self._placed(placement, leave, f"no single card has room; {count} hold it together{once}")
        self._say(f"several cards{' after stopping servers' if leaving else ''}: not enough")
        return None

    def _split_after(self, gone: Sequence[Resident]) -> tuple[Placement, tuple[Resident, ...]] | None:
        """Over the fewest cards once these had left, and who of them has to."""
        back = held_bytes(gone)
        roomy = sorted(self._joinable, key=lambda card: (-(card.usable_bytes + back.get(card.uuid, 0)), card.index))
        for count in self._counts(back):
            placement = self._split(roomy[:count], back)
            leave = enough(gone, lacking(placement.needs, self.room)) if placement else None
            if placement and leave is not None:
                return placement, leave
        return None

    @cached_property
    def _joinable(self) -> list[Card]:
        return [card for card in self.cards if not card.is_mig]

    def _counts(self, back: Mapping[str, int]) -> list[int]:
        """How many of the cards to try, the roomiest first: those numbers that have enough bytes between them."""
        room = sorted((card.usable_bytes + back.get(card.uuid, 0) for card in self._joinable), reverse=True)
        most = min(len(room), self.wishes.max_gpus or len(room), len(self._layers))
        sums = [0, *accumulate(room)]
        counts = range(max(2, self.wishes.min_gpus), most + 1)
        return [count for count in counts if sums[count] >= self._whole_bytes + count * self._card_bytes]

    @cached_property
    def _layers(self) -> list[int]:
        """With the context a split gets."""
        return self.needs.of_layers(self._shortest)

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
        usable = [card.usable_bytes + back.get(card.uuid, 0) for card in cards]
        names = tuple(card.name for card in cards)
        options = replace(self._shortest, n_gpu_layers=n_gpu_layers or self.options.n_gpu_layers)
        layers = self.needs.of_layers(options)
        found = deal(layers, options, usable, self._card_bytes, lambda split: self.needs.of(split, names))
        if found is None:
            return None
        split, estimate = found
        return placement_on(cards, tuple(map(int, split.tensor_split)), options, estimate)

    # --- when GPUs are not enough --------------------------------------------------------------------------

    def _with_less_on_gpus(self) -> Decision | None:
        """By policy only, and in the context that a split would get."""
        cards = sorted(self.cards, key=lambda card: (-card.usable_bytes, card.index))
        found = None
        if self.wishes.cpu_moe and self.wishes.min_gpus == 1 and cards and (found := self._but_experts(cards[0])):
            return self._placed(found, (), f"{name_of(cards[0])} has room for all but the experts, which stay in RAM")
        if self.wishes.partial_offload and (found := self._most_layers(cards)):
            on = " and ".join(name_of(card) for card in cards if card.uuid in found.uuids)
            what = f"{found.n_gpu_layers} layers, the others stay in RAM"
            return self._placed(found, (), f"of {self._layer_count} layers there is room for {what}: {on}")
        return self._on_the_cpu((), "no GPU has room") if self.wishes.cpu_when_full else None

    def _but_experts(self, card: Card) -> Placement | None:
        options = replace(self._alone(self.contexts[-1]), n_cpu_moe=ALL_LAYERS)
        return self._if_it_fits(card, options)

    def _most_layers(self, cards: Sequence[Card]) -> Placement | None:
        """On the roomiest card, or on as many as it may have if together they hold more."""
        joinable = [card for card in cards if not card.is_mig and card.usable_bytes > self._card_bytes]
        joinable = joinable[: self.wishes.max_gpus]
        best = None
        if cards and self.wishes.min_gpus == 1:
            alone = self._alone(self.contexts[-1])
            best = self._largest(lambda count: self._if_it_fits(cards[0], replace(alone, n_gpu_layers=count)))
        if len(joinable) >= max(2, self.wishes.min_gpus):
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

    def _if_it_fits(self, card: Card, options: MemoryOptions) -> Placement | None:
        layers = min(options.n_gpu_layers, self._layer_count)
        placement = placement_on((card,), (layers,), options, self.needs.of(options, (card.name,)))
        return None if lacking(placement.needs, self.room) else placement

    def _on_the_cpu(self, leaving: Sequence[Resident], why: str) -> Decision | None:
        placement = self._all_in_ram()
        gone = enough(leaving, lacking(placement.needs, self.room))
        if gone is None:
            return None
        return self._placed(placement, gone, f"{why}; RAM has room" + (f" once {names_of(gone)} left" if gone else ""))

    def _all_in_ram(self) -> Placement:
        options = replace(self._alone(self.contexts[-1]), devices=0, n_gpu_layers=0)
        return Placement((CPU,), (), 0, options.ctx_size, 0, self.needs.of(options))

    # --- no place ------------------------------------------------------------------------------------------

    def _waiting(self) -> Decision | None:
        """What is in the way is ours: busy, or loading. The busy ones that have to go are named."""
        ours = [each for each in self.world.residents if not each.is_pinned]
        ready = [each for each in ours if not each.is_loading]
        ready.sort(key=lambda each: (each.is_busy, cost_of_stopping(each)))
        if found := self._after(ready):
            busy = [each for each in ready if each.id in found.evict and each.is_busy]
            reason = f"it has room once {names_of(busy)} {'is' if len(busy) == 1 else 'are'} no longer busy"
            return replace(self._decision(Outcome.WAIT, reason, found.needed_bytes), evict=found.evict)
        if len(ready) < len(ours) and (found := self._after(sorted(ours, key=cost_of_stopping))):
            reason = "it has room once servers that are loading could be stopped"
            return self._decision(Outcome.WAIT, reason, found.needed_bytes)
        return None

    def _after(self, leaving: Sequence[Resident]) -> Decision | None:
        """The place there would be once some of these had left."""
        if not leaving:
            return None
        if self.is_for_the_cpu:
            return self._on_the_cpu(leaving, "")
        return self._on_one_after(leaving, "ours") or self._on_several(leaving)

    def _refused(self) -> Decision:
        empty = self.world.empty()
        for_ever = self._fits_in(empty, self._shortest) is None
        least = self._all_in_ram() if self.is_for_the_cpu else self._least()
        found = self._decision(Outcome.REFUSE, self._why_not(least, for_ever), least.needed_bytes if least else 0)
        ours = [each for each in self.world.residents if not each.is_pinned]
        world = empty if for_ever else self.world.once_it_is_back().without(ours)
        return replace(found, for_ever=for_ever, nearest=self._nearest(world))

    def _why_not(self, least: Placement | None, for_ever: bool) -> str:
        if least is None:
            return f"none of the GPUs that its settings name is here ({', '.join(self.wishes.gpus) or 'all excluded'})"
        never = ", more than there ever is for it" if for_ever else ""
        missing = lacking(least.needs, self.room)
        if {CPU, BOOKS} & missing.keys():
            return f"it needs {mib(least.booked_bytes[CPU])} of RAM{never}; {mib(self._free_ram)} are free"
        usable = ", ".join(f"{name_of(card)} {mib(card.usable_bytes)}" for card in self.cards)
        if self.wishes.min_gpus > 1:
            return f"it is to be on at least {self.wishes.min_gpus} GPUs, and they do not hold it; usable: {usable}"
        return f"it needs {mib(least.needed_bytes)} of one GPU{never}; usable: {usable}"

    @property
    def _free_ram(self) -> int:
        return max(0, min(self.room[CPU], self.room.get(BOOKS, self.room[CPU])))

    @property
    def _free_bytes(self) -> dict[str, int]:
        if self.is_for_the_cpu:
            return {CPU: self._free_ram} if CPU in self.room else {}
        return {card.uuid: card.usable_bytes for card in self.cards}

    def _least(self) -> Placement | None:
        return min(
            (self._one(card, self.contexts[-1]) for card in self.cards),
            key=lambda each: each.needed_bytes,
            default=None,
        )

    @property
    def _shortest(self) -> MemoryOptions:
        return replace(self.options, ctx_size=self.contexts[-1])

    def _nearest(self, world: World) -> str:
        """The setting next to what was asked that would fit: first a smaller cache, then a shorter context."""
        longest = self.contexts[-1]
        kinds = [self.options.cache_type_k]
        if self.options.flash_attn != "off":
            kinds += [kind for kind in ("q8_0", "q4_0") if kind != self.options.cache_type_k]
        contexts = (longest, *(each for each in AUTO_CONTEXTS if each < longest))
        tries = [(ctx_size, kind) for ctx_size in contexts for kind in kinds]
        if not self._fits_with(world, *tries[-1]):  # the least of them
            return ""
        ctx_size, kind = next(each for each in tries if self._fits_with(world, *each))
        cache = "" if kind == self.options.cache_type_k else f"cache_type_k and cache_type_v {kind}"
        return " with ".join(filter(None, ("" if ctx_size == longest else f"ctx_size {ctx_size}", cache)))

    def _fits_with(self, world: World, ctx_size: int, kind: str) -> bool:
        options = replace(self.options, ctx_size=ctx_size)
        if kind != options.cache_type_k:
            options = replace(options, cache_type_k=kind, cache_type_v=kind)
        return self._fits_in(world, options) is not None

    def _fits_in(self, world: World, options: MemoryOptions) -> Decision | None:
        """As it is, with nobody stopped."""
        deciding = _Deciding(self.needs, world, options)
        if deciding.is_for_the_cpu:
            return deciding._on_the_cpu((), "")
        return deciding._on_one_that_is_free() or deciding._on_several(()) or deciding._with_less_on_gpus()

    # --- what is said --------------------------------------------------------------------------------------

    def _cheap(self) -> list[Resident]:
        """Servers that nobody has used for long: stopping one costs less than a split for all its life."""
        return [each for each in self._idle if each.idle_seconds >= self.world.policy.residency_seconds]

    @cached_property
    def _idle(self) -> list[Resident]:
        idle = (each for each in self.world.residents if not (each.is_busy or each.is_loading or each.is_pinned))
        return sorted(idle, key=cost_of_stopping)

    def _placed(self, placement: Placement, gone: Iterable[Resident], why: str) -> Decision:
        leaving = tuple(resident.id for resident in gone)
        decision = self._decision(Outcome.EVICT if leaving else Outcome.PLACE, why, placement.needed_bytes)
        return replace(decision, placement=placement, evict=leaving)

    def _decision(self, outcome: Outcome, reason: str, needed_bytes: int) -> Decision:
        return Decision(outcome, reason, needed_bytes, free_bytes=self._free_bytes, considered=tuple(self.said))

    def _say(self, step: str) -> None:
        self.said.append(step)


def _contexts(asked: Asked) -> tuple[int, ...]:
    """The contexts to try, the longest first: those of "auto" that are not above the model's own, or the one asked."""
    trained = asked.shape.hparams.integer("context_length")
    if not asked.wishes.has_auto_context:
        return (asked.options.ctx_size or trained,)
    return tuple(each for each in AUTO_CONTEXTS if each <= trained) or (trained or AUTO_CONTEXTS[-1],)
