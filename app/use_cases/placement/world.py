"""The machine as a decision about a model's place sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.entities.placement import Card, Placement, Policy, Resident
from app.use_cases.placement.cards import memory_held_by
from app.use_cases.placement.ledger import Ledger


@dataclass(frozen=True, slots=True)
class World:
    """The cards, the servers on them, and what all places share: RAM (CPU, BOOKS) and PLACES. What is not named there
    is not short."""

    cards: tuple[Card, ...]
    residents: tuple[Resident, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    leaving: Mapping[str, int] = field(default_factory=dict)  # of `shared`: on its way back
    draining: Mapping[str, int] = field(default_factory=dict)  # of `shared`: back once servers have answered
    totals: Mapping[str, int] = field(default_factory=dict)  # of `shared`: if no server were there, nor a stranger
    policy: Policy = field(default_factory=Policy)

    @property
    def is_releasing(self) -> bool:
        """Whether memory is on its way back."""
        return any(self.leaving.values()) or any(card.releasing_bytes for card in self.cards)

    @property
    def has_draining(self) -> bool:
        """Whether servers go once they have answered, which may take minutes."""
        return any(self.draining.values()) or any(card.draining_bytes for card in self.cards)

    def after_release(self) -> World:
        cards = tuple(replace(_with_more(card, card.releasing_bytes), releasing_bytes=0) for card in self.cards)
        return replace(self, cards=cards, shared=_sum(self.shared, self.leaving), leaving={})

    def after_drain(self) -> World:
        """With what is coming back, and what those have that still answer."""
        back = self.after_release()
        cards = tuple(replace(_with_more(card, card.draining_bytes), draining_bytes=0) for card in back.cards)
        return replace(back, cards=cards, shared=_sum(back.shared, self.draining), draining={})

    def after_eviction(self, gone: Sequence[Resident]) -> World:
        """Once these servers have left."""
        back = memory_held_by(gone)
        cards = tuple(_with_more(card, back.get(card.uuid, 0)) for card in self.cards)
        staying = tuple(each for each in self.residents if each not in gone)
        return replace(self, cards=cards, residents=staying, shared=_sum(self.shared, back))

    def with_reservation(self, place: Placement, going: Collection[int]) -> World:
        """As those see it who may not take what a place that is waited for needs, nor stop the servers that go for it.
        What is free now may still be taken, as far as enough for that place comes back."""
        gone = [each for each in self.residents if each.id in going]
        needs, back = place.needs, memory_held_by(gone)
        cards = tuple(
            replace(card, usable_bytes=usable, releasing_bytes=leaving, draining_bytes=draining)
            for card in self.cards
            for usable, leaving, draining in (
                _beside(
                    needs.get(card.uuid, 0) - back.get(card.uuid, 0),
                    card.usable_bytes,
                    card.releasing_bytes,
                    card.draining_bytes,
                ),
            )
        )
        rest = {
            what: _beside(
                needs.get(what, 0) - back.get(what, 0), free, self.leaving.get(what, 0), self.draining.get(what, 0)
            )
            for what, free in self.shared.items()
        }
        return replace(
            self,
            cards=cards,
            residents=tuple(each for each in self.residents if each not in gone),
            shared={what: each[0] for what, each in rest.items()},
            leaving={what: each[1] for what, each in rest.items()},
            draining={what: each[2] for what, each in rest.items()},
        )

    def empty(self) -> World:
        """Nobody else on the machine."""
        cards = tuple(
            replace(card, usable_bytes=card.total_bytes, releasing_bytes=0, draining_bytes=0) for card in self.cards
        )
        return World(cards, shared={**self.shared, **self.totals}, totals=self.totals, policy=self.policy)


def world_of(ledger: Ledger, policy: Policy, now: float, uses_gpus: bool = True) -> World:
    """What the books say."""
    return World(
        cards=ledger.cards() if uses_gpus else (),
        residents=ledger.residents(now),
        shared=ledger.shared_free(),
        leaving=ledger.shared_releasing(),
        draining=ledger.shared_draining(),
        totals=ledger.shared_totals(),
        policy=policy,
    )


def _beside(need: int, free: int, leaving: int, draining: int) -> tuple[int, int, int]:
    """What is left of each: what comes back later is taken first."""
    left = free + leaving + draining - need
    soon = min(free + leaving, left)
    return min(free, left), max(0, soon - min(free, left)), max(0, left - soon)


def _with_more(card: Card, back: int) -> Card:
    return replace(card, usable_bytes=min(card.total_bytes, card.usable_bytes + back))


def _sum(shared: Mapping[str, int], back: Mapping[str, int]) -> dict[str, int]:
    return {what: free + back.get(what, 0) for what, free in shared.items()}
