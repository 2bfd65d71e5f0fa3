"""Prompt caches: the RAM that a server gets for conversations without a slot, and what that means for other models.

With `prompt_cache: auto` it is a share of the RAM that is left once the server is placed: decided at its start, and
booked like the rest. It was given because it was free, so it must not be what another model lacks: one that would have
been placed without the caches is never refused, and no server without such a cache is evicted for it. The servers that
have one are stopped instead, and started again with less (restarts.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.entities.launch import AUTO_PROMPT_CACHE
from app.entities.placement import CPU, UNBOOKED_RAM, Decision, Outcome, Placement, Resident
from app.entities.wait_cause import WaitCause
from app.use_cases.placement.cards import shortfall
from app.use_cases.placement.request import PlacementRequest, with_prompt_cache
from app.use_cases.placement.victims import cheapest_victims, eviction_rank, model_names, without_spare_cache
from app.use_cases.placement.world import World

MIB, GIB = 1024**2, 1024**3
SHARE = 4  # of the free RAM: a quarter
SHARE_BESIDE_MODEL = 8  # where models are in RAM themselves: the next one needs what is free
MOST_BYTES = 8 * GIB  # llama-server's own default
USEFUL_CONTEXTS = 16  # full ones: more conversations than anybody returns to
LEAST_BYTES = 16 * MIB


def decision_with_prompt_cache(decision: Decision, request: PlacementRequest, world: World) -> Decision:
    """The decision, with the placement's prompt cache."""
    place = decision.placement
    if place is None or not request.options.prompt_cache:
        return decision
    after = world.after_eviction([each for each in world.residents if each.id in decision.evict])
    return replace(decision, placement=_with_cache(place, request, after))


def _with_cache(place: Placement, request: PlacementRequest, world: World) -> Placement:
    largest = _conversation_bytes(place, request)
    if request.options.prompt_cache == AUTO_PROMPT_CACHE:
        size = _automatic_bytes(place, largest, world)
        place = replace(place, estimate=with_prompt_cache(place.estimate, size))
    return replace(place, parks_idle_slots=request.options.kv_unified and place.prompt_cache_bytes >= largest)


def _automatic_bytes(place: Placement, largest: int, world: World) -> int:
    """In whole MiB, as llama-server takes it."""
    ram = [world.shared[what] for what in (CPU, UNBOOKED_RAM) if what in world.shared]
    spare = min(ram, default=0) - place.needs[CPU]
    share = SHARE_BESIDE_MODEL if place.is_on_cpu or place.unified else SHARE
    size = min(MOST_BYTES, spare // share, USEFUL_CONTEXTS * largest) // MIB * MIB
    return size if size >= LEAST_BYTES else 0


def _conversation_bytes(place: Placement, request: PlacementRequest) -> int:
    """What all slots together have to leave in the cache at most: the whole context, and its checkpoints."""
    context = sum(each.context_bytes for each in (*place.estimate.devices, place.estimate.host))
    return context + request.checkpoint_bytes


# --- in the way of another model -----------------------------------------------------------------------------------


def without_spare_caches(world: World) -> World:
    """The world as it would be if no server had got spare RAM for its prompt cache."""
    size = sum(each.spare_cache_bytes for each in world.residents)
    shared = {what: free + (size if what in (CPU, UNBOOKED_RAM) else 0) for what, free in world.shared.items()}
    residents = tuple(map(without_spare_cache, world.residents))
    cards = (replace(card, usable_bytes=card.usable_bytes + size) if card.is_unified else card for card in world.cards)
    return replace(world, cards=tuple(cards), residents=residents, shared=shared)


def taking_caches(without: Decision, world: World) -> Decision | None:
    """What to do for a model that other servers' caches keep from its place: stop idle servers that have one, or wait
    for busy ones. None: that would not be enough. `without`: the decision in `without_spare_caches`, with its place."""
    assert without.placement is not None
    after = world.after_eviction([each for each in world.residents if each.id in without.evict])
    missing = shortfall(without.placement.needs, {**_card_bytes(after), **after.shared})
    holders = [each for each in after.residents if each.spare_cache_bytes]
    idle = sorted((each for each in holders if not (each.is_busy or each.is_loading)), key=eviction_rank)
    if victims := cheapest_victims(idle, missing):
        reason = f"{without.reason} without the prompt cache of {model_names(victims)}"
        evict = (*without.evict, *_ids(victims))
        return replace(without, outcome=Outcome.EVICT, reason=reason, evict=evict, restarts=_ids(victims))
    busiest_last = sorted(holders, key=lambda each: (each.is_loading, each.is_busy))
    return _waiting(without, cheapest_victims(busiest_last, missing))


def _card_bytes(world: World) -> dict[str, int]:
    return {card.uuid: card.usable_bytes for card in world.cards if not card.is_unified}


def _waiting(without: Decision, victims: Sequence[Resident] | None) -> Decision | None:
    if not victims:
        return None
    busy = [each for each in victims if each.is_busy or each.is_loading]
    stopped = _ids(each for each in victims if not each.is_loading)
    return replace(
        without,
        outcome=Outcome.WAIT,
        reason=f"waiting for {model_names(busy)} to become idle: its prompt cache has the RAM",
        cause=WaitCause.BUSY,
        awaited=_ids(busy),
        placement=None,
        awaited_placement=without.placement,
        evict=(*without.evict, *stopped),
        restarts=stopped,
    )


def _ids(residents: Iterable[Resident]) -> tuple[int, ...]:
    return tuple(each.id for each in residents)
