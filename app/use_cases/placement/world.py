"""World: the machine as a placement decision sees it. Every method returns a changed copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.entities.gpu import EngineView
from app.entities.launch import OwnEngine
from app.entities.placement import CPU, Card, Placement, Policy, Resident
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.victims import memory_held_by


@dataclass(frozen=True, slots=True)
class World:
    """The GPUs, the servers on them, and the resources all placements share: CPU, UNBOOKED_RAM and LOAD_QUOTA.

    The mappings are by shared resource; one that `shared` does not list is unlimited.
    """

    cards: tuple[Card, ...]
    residents: tuple[Resident, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)  # free now
    releasing: Mapping[str, int] = field(default_factory=dict)  # held by stopping servers
    draining: Mapping[str, int] = field(default_factory=dict)  # held by draining servers
    totals: Mapping[str, int] = field(default_factory=dict)  # of a machine without servers or other processes
    absent: tuple[Card, ...] = ()  # GPUs that are missing for now
    # What nothing here can free, by GPU's UUID and of CPU: held by other processes for long, or on a missing GPU.
    taken: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    # What each engine can use of the GPUs, if models have engines of their own; None: the service's.
    views: Mapping[OwnEngine | None, EngineView] = field(default_factory=dict)

    def seen_by(self, engine: OwnEngine | None) -> World:
        """With the GPUs that this engine can use, as it numbers them."""
        view = self.views.get(engine)
        if view is None:
            return self
        numbered = (replace(card, vulkan_number=view.vulkan_numbers.get(card.uuid)) for card in self.cards)
        cards = () if view.problem else tuple(card for card in numbered if card.uuid not in view.unusable)
        absent = () if view.problem else tuple(card for card in self.absent if card.uuid not in view.unusable)
        return replace(self, cards=cards, absent=absent, views={})

    @property
    def is_releasing(self) -> bool:
        """Whether memory is being released."""
        return any(self.releasing.values()) or any(card.releasing_bytes for card in self.cards)

    @property
    def has_draining(self) -> bool:
        """Whether servers are draining, which may take minutes."""
        return any(self.draining.values()) or any(card.draining_bytes for card in self.cards)

    def after_release(self) -> World:
        """With the memory of stopping servers free."""
        cards = tuple(replace(_with_more(card, card.releasing_bytes), releasing_bytes=0) for card in self.cards)
        return replace(self, cards=cards, shared=_sum(self.shared, self.releasing), releasing={})

    def after_drain(self) -> World:
        """With the memory of stopping and of draining servers free."""
        released = self.after_release()
        cards = tuple(replace(_with_more(card, card.draining_bytes), draining_bytes=0) for card in released.cards)
        return replace(released, cards=cards, shared=_sum(released.shared, self.draining), draining={})

    def after_eviction(self, victims: Sequence[Resident]) -> World:
        """Without these servers."""
        held = memory_held_by(victims)
        cards = tuple(_with_more(card, held.get(card.uuid, 0)) for card in self.cards)
        residents = tuple(each for each in self.residents if each not in victims)
        return replace(self, cards=cards, residents=residents, shared=_sum(self.shared, held))

    def with_reservation(self, placement: Placement, victim_ids: Collection[int]) -> World:
        """With `placement` and its victims reserved for an earlier load.

        Memory that is free now stays usable as far as enough for the reservation is still to be released.
        """
        victims = [each for each in self.residents if each.id in victim_ids]
        needs, held = placement.needs, memory_held_by(victims)
        cards = tuple(
            replace(card, usable_bytes=usable, releasing_bytes=releasing, draining_bytes=draining)
            for card in self.cards
            for usable, releasing, draining in (
                _reserve(
                    needs.get(card.uuid, 0) - held.get(card.uuid, 0),
                    card.usable_bytes,
                    card.releasing_bytes,
                    card.draining_bytes,
                ),
            )
        )
        rest = {
            what: _reserve(
                needs.get(what, 0) - held.get(what, 0), free, self.releasing.get(what, 0), self.draining.get(what, 0)
            )
            for what, free in self.shared.items()
        }
        return replace(
            self,
            cards=cards,
            residents=tuple(each for each in self.residents if each not in victims),
            shared={what: free for what, (free, _, _) in rest.items()},
            releasing={what: releasing for what, (_, releasing, _) in rest.items()},
            draining={what: draining for what, (_, _, draining) in rest.items()},
        )

    def with_pinned(self, placement: Placement) -> World:
        """With a server in `placement` that is never evicted."""
        taken = _sum(placement.by_memory(placement.booked_bytes), self.taken)
        return replace(self.with_reservation(placement, ()), taken=taken)

    def with_others_taken(self) -> World:
        """With everything that is neither free nor held by our servers taken for good, as if it had been for long."""
        held, totals = memory_held_by(self.residents), self.totals
        taken = {CPU: totals[CPU] - self.shared[CPU] - held.get(CPU, 0)} if CPU in totals else {}
        for card in (each for each in self.cards if not each.is_unified):
            ours = held.get(card.uuid, 0) + card.releasing_bytes + card.draining_bytes
            taken[card.uuid] = card.total_bytes - card.usable_bytes - ours
        return replace(self, taken={what: size for what, size in taken.items() if size > 0})

    def empty(self) -> World:
        """Without any servers or other processes."""
        cards = tuple(
            replace(card, usable_bytes=card.total_bytes, releasing_bytes=0, draining_bytes=0) for card in self.cards
        )
        shared = {**self.shared, **self.totals}
        return World(cards, shared=shared, totals=self.totals, policy=self.policy, views=self.views)


def world_of(ledger: Ledger, policy: Policy, now: float, uses_gpus: bool = True) -> World:
    """The world that the ledger describes at `now` (monotonic seconds); without GPUs if they cannot be used."""
    return World(
        cards=ledger.cards() if uses_gpus else (),
        residents=ledger.residents(now),
        shared=ledger.shared_free(),
        releasing=ledger.shared_releasing(),
        draining=ledger.shared_draining(),
        totals=ledger.shared_totals(),
        policy=policy,
        views=ledger.gpus.views,
    )


def _reserve(need: int, free: int, releasing: int, draining: int) -> tuple[int, int, int]:
    """What remains of each after taking `need`, from what becomes free last first."""
    left = free + releasing + draining - need
    soon = min(free + releasing, left)
    return min(free, left), max(0, soon - min(free, left)), max(0, left - soon)


def _with_more(card: Card, released_bytes: int) -> Card:
    return replace(card, usable_bytes=min(card.total_bytes, card.usable_bytes + released_bytes))


def _sum(shared: Mapping[str, int], released: Mapping[str, int]) -> dict[str, int]:
    return {what: free + released.get(what, 0) for what, free in shared.items()}
