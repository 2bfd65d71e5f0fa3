"""Chooses the GPUs for a model: one that is free, one after stopping idle servers, else the fewest that hold it.

Greedy, and each step leaves its numbers behind. Pure: the same cards and servers give the same decision.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from app.entities.launch import ALL_LAYERS, MemoryOptions
from app.entities.memory import Estimate
from app.entities.placement import (
    Card,
    Decision,
    Outcome,
    Placement,
    Policy,
    Resident,
    Strategy,
)
from app.use_cases.asked import Asked
from app.use_cases.cards import (
    allowed,
    cost_of_stopping,
    emptied,
    enough,
    held_bytes,
    mib,
    more_and_more,
    name_of,
    names_of,
    place_in,
    without_those_in_vain,
)
from app.use_cases.deal_layers import deal, layer_bytes
from app.use_cases.partial_placement import on_the_cpu, with_experts_in_ram, with_layers_in_ram

AUTO_CONTEXTS = (32768, 16384, 8192, 4096)


@dataclass(frozen=True, slots=True)
class World:
    """The cards and the servers on them. `ram_bytes` is what the CPU has to give."""

    cards: tuple[Card, ...]
    residents: tuple[Resident, ...] = ()
    ram_bytes: int = 0
    policy: Policy = field(default_factory=Policy)


def decide(asked: Asked, world: World) -> Decision:
    """Where the model goes, what has to leave for it first, or why there is no place."""
    return _Deciding(asked, world).decide()


class _Deciding:
    """One decision; its steps in their order."""

    def __init__(self, asked: Asked, world: World, known: dict[MemoryOptions, list[int]] | None = None) -> None:
        self.asked = asked
        self.known = {} if known is None else known  # layer_bytes, of this and the decisions within it
        self.world = world
        self.cards = allowed(world.cards, asked.wishes)
        self.said: list[str] = []  # the steps so far
        self.contexts = _contexts(asked)

    @cached_property
    def whole_bytes(self) -> int:
        return sum(self.layer_bytes)

    @cached_property
    def card_bytes(self) -> int:
        """The least that each card of a split takes beside its layers."""
        return self._estimate_on_one(self.contexts[-1]).devices[0].overhead_bytes

    @cached_property
    def layer_bytes(self) -> list[int]:
        """With the context a split gets."""
        options = replace(self.asked.options, ctx_size=self.contexts[-1], n_gpu_layers=ALL_LAYERS)
        if options not in self.known:
            self.known[options] = layer_bytes(self.asked.shape, options)
        return self.known[options]

    def decide(self) -> Decision:
        """The first step that finds a place decides."""
        if not self.world.cards:
            return self._on_the_cpu("there is no GPU") or self._refused()
        cheap, idle = self._cheap(), self._idle()
        found = (
            self._on_one_that_is_free()
            or self._on_one_after(cheap, "idle for long")
            or self._on_several(())
            or (self._on_several(cheap) if cheap else None)
            or self._on_one_after(idle, "idle")
            or (self._on_several(idle) if idle else None)
            or self._with_less_on_gpus()
        )
        return found or self._waiting() or self._refused()

    # --- one card ------------------------------------------------------------------------------------------

    def _on_one_that_is_free(self) -> Decision | None:
        if self.asked.wishes.min_gpus > 1:
            return None
        for ctx_size in self.contexts:
            need = self._on_one(ctx_size)
            fitting = [card for card in self.cards if need <= card.usable_bytes]
            self._say(f"one card, context {ctx_size}: needs {mib(need)}, {len(fitting)} of {len(self.cards)} have it")
            if fitting:
                card = min(fitting, key=lambda card: self._rank(card, need))
                return self._placed(self._one(card, ctx_size), (), f"{name_of(card)} has room")
        return None

    def _on_one_after(self, leaving: Sequence[Resident], what: str) -> Decision | None:
        """A longer context is never worth a stop: the shortest is asked for."""
        if self.asked.wishes.min_gpus > 1 or not leaving:
            return None
        ctx_size = self.contexts[-1]
        need = self._on_one(ctx_size)
        ways = []
        for card in self.cards:
            gone = enough(leaving, card.uuid, need - card.usable_bytes)
            if gone is not None:
                ways.append((sum(map(cost_of_stopping, gone)), self._rank(card, need), card, gone))
        self._say(f"one card after stopping servers that are {what}: {len(ways)} ways")
        if not ways:
            return None
        _, _, card, gone = min(ways, key=lambda way: way[:2])
        return self._placed(self._one(card, ctx_size), gone, f"{name_of(card)} has room once {names_of(gone)} left")

    def _on_one(self, ctx_size: int) -> int:
        return self._estimate_on_one(ctx_size).devices[0].booked_bytes

    def _estimate_on_one(self, ctx_size: int) -> Estimate:
        return self.asked.estimate(self._alone(ctx_size))

    def _alone(self, ctx_size: int) -> MemoryOptions:
        return replace(self.asked.options, ctx_size=ctx_size, devices=1, tensor_split=(), n_gpu_layers=ALL_LAYERS)

    def _one(self, card: Card, ctx_size: int) -> Placement:
        layers = self.asked.shape.hparams.n_layer_all + 1
        return Placement((card.uuid,), (layers,), ALL_LAYERS, ctx_size, 0, self._estimate_on_one(ctx_size))

    def _rank(self, card: Card, need: int) -> tuple[object, ...]:
        """Cards named first, idle ones before busy ones, then by strategy."""
        left = card.usable_bytes - need
        return (
            place_in(self.world.policy.order, card),
            card.is_busy,
            left if self.world.policy.strategy is Strategy.PACK else -left,
            card.index,
        )

    # --- several cards -------------------------------------------------------------------------------------

    def _on_several(self, leaving: Sequence[Resident]) -> Decision | None:
        """The fewest cards: those with most room, since no others hold more."""
        ctx_size = self.contexts[-1]
        ways = more_and_more(leaving)
        # Room grows with every server that goes: only from where the bytes are enough at all is it looked at closely.
        first = bisect_left(ways, True, key=lambda gone: bool(self._counts(self._rooms(held_bytes(gone)))))
        for gone in ways[first:]:
            back = held_bytes(gone)
            roomy = sorted(self.cards, key=lambda card: (-(card.usable_bytes + back.get(card.uuid, 0)), card.index))
            for count in self._counts(self._rooms(back)):
                if placement := self._split(roomy[:count], back, ctx_size):
                    gone = without_those_in_vain(gone, roomy[:count], placement.booked_bytes)
                    self._say(f"{count} cards hold it{f' once {names_of(gone)} left' if gone else ''}")
                    why = f"no single card has room; {count} hold it together"
                    return self._placed(placement, gone, why + (f" once {names_of(gone)} left" if gone else ""))
        self._say(f"several cards{' after stopping idle servers' if leaving else ''}: not enough")
        return None

    def _rooms(self, back: Mapping[str, int]) -> list[int]:
        return sorted((card.usable_bytes + back.get(card.uuid, 0) for card in self.cards), reverse=True)

    def _counts(self, room: Sequence[int]) -> list[int]:
        """How many of the cards to try, the roomiest first: those numbers that have enough bytes between them."""
        wishes = self.asked.wishes
        most = min(len(room), wishes.max_gpus or len(room))
        sums = [0, *accumulate(room)]
        counts = range(max(2, wishes.min_gpus), most + 1)
        return [count for count in counts if sums[count] >= self.whole_bytes + count * self.card_bytes]

    def _split(self, cards: Sequence[Card], back: Mapping[str, int], ctx_size: int) -> Placement | None:
        usable = [card.usable_bytes + back.get(card.uuid, 0) for card in cards]
        options = replace(self.asked.options, ctx_size=ctx_size, n_gpu_layers=ALL_LAYERS)
        found = deal(self.layer_bytes, options, usable, self.card_bytes, self.asked.estimate)
        if found is None:
            return None
        split, estimate = found
        uuids = tuple(card.uuid for card in cards)
        return Placement(uuids, tuple(map(int, split.tensor_split)), ALL_LAYERS, ctx_size, 0, estimate)

    # --- when GPUs are not enough --------------------------------------------------------------------------

    def _with_less_on_gpus(self) -> Decision | None:
        wishes, ctx_size, ram_bytes = self.asked.wishes, self.contexts[-1], self.world.ram_bytes
        card = max(self.cards, key=lambda card: card.usable_bytes, default=None)
        if card and wishes.cpu_moe and (found := with_experts_in_ram(self.asked, card, ctx_size, ram_bytes)):
            return self._placed(found, (), f"{name_of(card)} has room for all but the experts, which stay in RAM")
        if card and wishes.partial_offload and (found := with_layers_in_ram(self.asked, card, ctx_size, ram_bytes)):
            what = f"{found.n_gpu_layers} layers, the others stay in RAM"
            return self._placed(found, (), f"{name_of(card)} has room for {what}")
        return self._on_the_cpu("no GPU has room") if wishes.cpu_when_full else None

    def _on_the_cpu(self, why: str) -> Decision | None:
        placement = on_the_cpu(self.asked, self.contexts[-1], self.world.ram_bytes)
        return self._placed(placement, (), f"{why}; the CPU has room") if placement else None

    def _waiting(self) -> Decision | None:
        """What is in the way is ours: busy, or on its way out."""
        ours = [resident for resident in self.world.residents if not resident.is_pinned]
        if not ours and not any(card.leaving_bytes for card in self.world.cards):
            return None
        found = self._fits_on(emptied(self.cards, ours), replace(self.asked.options, ctx_size=self.contexts[-1]))
        if found is None:
            return None
        own = {card.uuid for card in self.cards}
        busy = [resident for resident in ours if resident.is_busy and own & resident.held_bytes.keys()]
        why = f"{names_of(busy)} {'is' if len(busy) == 1 else 'are'} busy" if busy else "memory is coming back"
        return self._decision(Outcome.WAIT, f"it has room once what is ours has left: {why}", found.needed_bytes)

    def _refused(self) -> Decision:
        empty = tuple(replace(card, usable_bytes=card.total_bytes, leaving_bytes=0) for card in self.cards)
        need = self._least()
        for_ever = self._fits_on(empty, replace(self.asked.options, ctx_size=self.contexts[-1])) is None
        what = "which it can never have here" if for_ever else "and others hold the memory"
        reason = f"it needs {mib(need)}, {what}"
        found = self._decision(Outcome.REFUSE, reason, need)
        return replace(
            found, for_ever=for_ever, nearest=self._nearest(empty if for_ever else emptied(self.cards, self._idle()))
        )

    def _least(self) -> int:
        if not self.cards:
            return self.asked.estimate(replace(self.asked.options, devices=0, n_gpu_layers=0)).host.booked_bytes
        return self._on_one(self.contexts[-1])

    def _nearest(self, cards: tuple[Card, ...]) -> str:
        """The setting next to what was asked that would fit: first a smaller cache, then a shorter context."""
        asked, longest = self.asked.options, self.contexts[-1]
        kinds = [asked.cache_type_k]
        if asked.flash_attn != "off":
            kinds += [kind for kind in ("q8_0", "q4_0") if kind != asked.cache_type_k]
        contexts = (longest, *(each for each in AUTO_CONTEXTS if each < longest))
        tries = [(ctx_size, kind) for ctx_size in contexts for kind in kinds]
        if not self._fits_with(cards, *tries[-1]):  # the least of them
            return ""
        ctx_size, kind = next(each for each in tries if self._fits_with(cards, *each))
        cache = "" if kind == asked.cache_type_k else f"cache_type_k and cache_type_v {kind}"
        return " with ".join(filter(None, ("" if ctx_size == longest else f"ctx_size {ctx_size}", cache)))

    def _fits_with(self, cards: tuple[Card, ...], ctx_size: int, kind: str) -> bool:
        options = replace(self.asked.options, ctx_size=ctx_size)
        if kind != options.cache_type_k:
            options = replace(options, cache_type_k=kind, cache_type_v=kind)
        return self._fits_on(cards, options) is not None

    def _fits_on(self, cards: tuple[Card, ...], options: MemoryOptions) -> Decision | None:
        wishes = replace(self.asked.wishes, has_auto_context=False)
        asked = replace(self.asked, options=options, wishes=wishes)
        deciding = _Deciding(asked, replace(self.world, cards=cards, residents=()), self.known)
        return deciding._on_one_that_is_free() or deciding._on_several(())

    # --- what is said --------------------------------------------------------------------------------------

    def _cheap(self) -> list[Resident]:
        """Servers that nobody has used for long: stopping one costs less than a split for all its life."""
        return [each for each in self._idle() if each.idle_seconds >= self.world.policy.residency_seconds]

    def _idle(self) -> list[Resident]:
        idle = [each for each in self.world.residents if not each.is_busy and not each.is_pinned]
        return sorted(idle, key=cost_of_stopping)

    def _placed(self, placement: Placement, gone: Iterable[Resident], why: str) -> Decision:
        leaving = tuple(resident.id for resident in gone)
        booked = sum(placement.booked_bytes.values())
        decision = self._decision(Outcome.EVICT if leaving else Outcome.PLACE, why, booked)
        return replace(decision, placement=placement, evict=leaving)

    def _decision(self, outcome: Outcome, reason: str, needed_bytes: int) -> Decision:
        free = {card.uuid: card.usable_bytes for card in self.cards}
        return Decision(outcome, reason, needed_bytes, free_bytes=free, considered=tuple(self.said))

    def _say(self, step: str) -> None:
        self.said.append(step)


def _contexts(asked: Asked) -> tuple[int, ...]:
    """The contexts to try, the longest first: those of "auto" that are not above the model's own, or the one asked."""
    trained = asked.shape.hparams.integer("context_length")
    if not asked.wishes.has_auto_context:
        return (asked.options.ctx_size or trained,)
    return tuple(each for each in AUTO_CONTEXTS if each <= trained) or (trained or AUTO_CONTEXTS[-1],)
