"""Cards and the servers on them: which may be taken, who has to go for how much, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from app.entities.placement import Card, Resident, Wishes

MIB = 1024**2


def allowed(cards: Iterable[Card], wishes: Wishes) -> tuple[Card, ...]:
    """Those that the model's settings name, or do not exclude."""
    return tuple(
        card
        for card in cards
        if (not wishes.gpus or is_one_of(card, wishes.gpus)) and not is_one_of(card, wishes.exclude)
    )


def is_one_of(card: Card, names: Iterable[str]) -> bool:
    return any(name in (card.uuid, card.name, str(card.index)) for name in names)


def place_in(order: Sequence[str], card: Card) -> int:
    return next((place for place, name in enumerate(order) if is_one_of(card, (name,))), len(order))


def enough(leaving: Sequence[Resident], uuid: str, lacking: int) -> tuple[Resident, ...] | None:
    """Of the servers in their order, those that give back to the card what it lacks, and none that is not needed."""

    def held(resident: Resident) -> int:
        return resident.held_bytes.get(uuid, 0)

    gone: list[Resident] = []
    for resident in leaving:
        if lacking <= 0:
            break
        if held(resident) > 0:
            gone.append(resident)
            lacking -= held(resident)
    if lacking > 0:
        return None
    for resident in list(gone):
        if lacking + held(resident) <= 0:
            gone.remove(resident)
            lacking += held(resident)
    return tuple(gone)


def without_those_in_vain(
    gone: Sequence[Resident], cards: Sequence[Card], booked: Mapping[str, int]
) -> tuple[Resident, ...]:
    """Of the servers that were to go, those without whose bytes the cards would not hold what is booked on them."""
    needed = list(gone)
    for resident in gone:
        back = held_bytes(each for each in needed if each is not resident)
        if all(card.usable_bytes + back.get(card.uuid, 0) >= booked[card.uuid] for card in cards):
            needed.remove(resident)
    return tuple(needed)


def more_and_more(leaving: Sequence[Resident]) -> list[tuple[Resident, ...]]:
    """Nobody for the empty sequence; else the first, the first two, and so on."""
    return [tuple(leaving[:count]) for count in range(1, len(leaving) + 1)] or [()]


def held_bytes(residents: Iterable[Resident]) -> dict[str, int]:
    """By card, what comes back when they go."""
    back: dict[str, int] = {}
    for resident in residents:
        for uuid, held in resident.held_bytes.items():
            back[uuid] = back.get(uuid, 0) + held
    return back


def emptied(cards: Iterable[Card], residents: Iterable[Resident]) -> tuple[Card, ...]:
    """The cards once these servers, and those on their way out, are gone."""
    back = held_bytes(residents)
    return tuple(
        replace(
            card,
            usable_bytes=min(card.total_bytes, card.usable_bytes + card.leaving_bytes + back.get(card.uuid, 0)),
            leaving_bytes=0,
        )
        for card in cards
    )


def cost_of_stopping(resident: Resident) -> float:
    """What is lost by stopping it: bytes to load again, the less likely the longer nobody asked."""
    return sum(resident.held_bytes.values()) / max(1.0, resident.idle_seconds)


def mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def name_of(card: Card) -> str:
    return f"GPU {card.index} ({card.name})"


def names_of(residents: Iterable[Resident]) -> str:
    return ", ".join(sorted(resident.model for resident in residents)) or "nobody"
