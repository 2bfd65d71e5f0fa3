"""Cards and the servers on them: which may be taken, who has to go for how much, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import inf

from app.entities.launch import ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import BOOKS, PLACES, Card, Placement, PlacementConstraints, Resident

MIB = 1024**2
MOST_COMPARED = 8  # servers of which all sets are looked at: 255
LOAD_BYTES_PER_SECOND = 1e9  # where no load was measured: a disk of today, roughly


def allowed(cards: Iterable[Card], constraints: PlacementConstraints) -> tuple[Card, ...]:
    """Those that the model's settings name, or do not exclude."""
    return tuple(
        card
        for card in cards
        if (not constraints.gpus or is_one_of(card, constraints.gpus)) and not is_one_of(card, constraints.exclude)
    )


def is_one_of(card: Card, names: Iterable[str]) -> bool:
    return any(name in (card.uuid, card.name, str(card.index)) for name in names)


def place_in(order: Sequence[str], card: Card) -> int:
    return next((place for place, name in enumerate(order) if is_one_of(card, (name,))), len(order))


def lacking(needs: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """What is missing of each; what `room` does not speak of is there."""
    return {what: need - room[what] for what, need in needs.items() if what in room and need > room[what]}


def enough(leaving: Sequence[Resident], missing: Mapping[str, int]) -> tuple[Resident, ...] | None:
    """Of the servers in their order, those that give back what is missing, and none that is not needed for it."""
    gone: list[Resident] = []
    left, short = dict(missing), set(missing)
    for resident in leaving:
        if not short:
            break
        if any(map(resident.held_bytes.get, short)):
            gone.append(resident)
            left = {what: size - resident.held_bytes.get(what, 0) for what, size in left.items()}
            short = {what for what in short if left[what] > 0}
    if short:
        return None
    for resident in list(gone):
        without = {what: size + resident.held_bytes.get(what, 0) for what, size in left.items()}
        if all(size <= 0 for size in without.values()):
            gone.remove(resident)
            left = without
    return tuple(gone)


def cheapest(leaving: Sequence[Resident], missing: Mapping[str, int]) -> tuple[Resident, ...] | None:
    """The set of these servers, the cheapest first, that gives back what is missing for the least.

    Of the first few that hold any of it, exactly; beyond them, those that are enough in their order.
    """
    found = enough(leaving, missing)
    holding = [each for each in leaving if any(map(each.held_bytes.get, missing))][:MOST_COMPARED]
    if not found or found == tuple(holding[:1]):
        return found
    lowest = price(found)
    for count in range(1, len(holding) + 1):
        for some in combinations(holding, count):
            if (each := price(some)) < lowest and _gives_back(some, missing):
                found, lowest = some, each
    return found


def _gives_back(some: Iterable[Resident], missing: Mapping[str, int]) -> bool:
    back = held_bytes(some)
    return all(back.get(what, 0) >= size for what, size in missing.items())


def held_bytes(residents: Iterable[Resident]) -> dict[str, int]:
    """What comes back when they go."""
    back: dict[str, int] = {}
    for resident in residents:
        for uuid, held in resident.held_bytes.items():
            back[uuid] = back.get(uuid, 0) + held
    return back


def placement_on(
    cards: Sequence[Card], layers: tuple[int, ...], options: ModelOptions, estimate: Estimate
) -> Placement:
    """`layers` are the numbers of them on each card."""
    return Placement(
        uuids=tuple(card.uuid for card in cards),
        layers=layers,
        n_gpu_layers=options.n_gpu_layers,
        ctx_size=options.ctx_size,
        n_cpu_moe=options.n_cpu_moe,
        estimate=estimate,
        indices=tuple(card.index for card in cards),
        names=tuple(card.name for card in cards),
    )


def rank_of_stopping(resident: Resident) -> tuple[bool, bool, int, float]:
    """Whom to stop first: those that are not missed, then the old, of the lowest priority, that cost the least."""
    return not resident.is_spare, resident.is_young, resident.priority, cost_of_stopping(resident)


def price(gone: Iterable[Resident]) -> tuple[bool, bool, float, float]:
    """Of stopping all of these; what is looked at first comes first. Those that are not missed cost nothing."""
    gone = tuple(gone)
    missed = [each for each in gone if not each.is_spare]
    return (
        any(each.is_busy for each in gone),
        any(each.is_young for each in missed),
        max((each.priority for each in missed), default=-inf),
        sum(map(cost_of_stopping, missed)),
    )


def cost_of_stopping(resident: Resident) -> float:
    """What is lost by stopping it: seconds to load it again, by how often it is asked for. Where nobody counted, the
    less often the longer nobody asked."""
    rate, seconds = resident.rate, resident.load_seconds
    if seconds is None:
        held = sum(size for what, size in resident.held_bytes.items() if what not in (BOOKS, PLACES))
        seconds = held / LOAD_BYTES_PER_SECOND
    return seconds * (1 / max(1.0, resident.idle_seconds) if rate is None else rate)


def mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def name_of(card: Card) -> str:
    return f"GPU {card.index} ({card.name})"


def names_of(residents: Iterable[Resident]) -> str:
    return ", ".join(sorted(resident.model for resident in residents)) or "nobody"


def once_left(residents: Sequence[Resident]) -> str:
    return f" once {names_of(residents)} {'has' if len(residents) == 1 else 'have'} left" if residents else ""
