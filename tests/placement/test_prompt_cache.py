"""RAM for prompt caches: how much a server gets, and that no other model lacks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.entities.launch import AUTO_PROMPT_CACHE, ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import CPU, UNBOOKED_RAM, Card, Decision, Outcome, Resident
from app.entities.wait_cause import WaitCause
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from tests.helpers.builders import GIB, MIB, tiny_shape

CARD = Card("GPU-a", "card", 0, 24 * GIB, 24 * GIB)


def a_request(
    ram_gib: float, gpu_gib: float = 0, context_gib: float = 1.0, prompt_cache: int = AUTO_PROMPT_CACHE, **options: Any
) -> PlacementRequest:
    def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        context = int(context_gib * GIB)
        host = DeviceMemory(int(ram_gib * GIB) - (0 if options.devices else context), 0 if options.devices else context)
        on_gpu = DeviceMemory(int(gpu_gib * GIB) - context, context)
        return Estimate((on_gpu,) if options.devices else (), host, Confidence.EXACT)

    return PlacementRequest(tiny_shape(), ModelOptions(ctx_size=4096, prompt_cache=prompt_cache, **options), estimate)


def ram(
    free_gib: float, *residents: Resident, unbooked_gib: float | None = None, cards: tuple[Card, ...] = ()
) -> World:
    unbooked = int((free_gib if unbooked_gib is None else unbooked_gib) * GIB)
    return World(cards, residents, shared={CPU: int(free_gib * GIB), UNBOOKED_RAM: unbooked})


def holding(id: int, gib: float, cache_gib: float = 0.0, **more: Any) -> Resident:
    held = int(gib * GIB)
    return Resident(id, f"m{id}", {CPU: held, UNBOOKED_RAM: held}, spare_cache_bytes=int(cache_gib * GIB), **more)


def cache_mib(decision: Decision) -> float:
    assert decision.placement is not None
    return decision.placement.prompt_cache_bytes / MIB


def outcome(decision: Decision) -> tuple[Outcome, tuple[int, ...]]:
    return decision.outcome, decision.evict


def test_on_a_gpu_it_is_a_quarter_of_the_ram_that_is_left():
    on_gpu = a_request(ram_gib=2, gpu_gib=10, context_gib=4)
    assert cache_mib(decide(on_gpu, ram(18, cards=(CARD,)))) == 4 * 1024
    assert cache_mib(decide(on_gpu, ram(18, unbooked_gib=6, cards=(CARD,)))) == 1024, "what is booked is not left"


def test_beside_models_in_ram_it_is_an_eighth():
    assert cache_mib(decide(a_request(2), ram(18))) == 2 * 1024


def test_it_is_8_gib_at_most_and_none_where_little_is_left():
    assert cache_mib(decide(a_request(2), ram(1000))) == 8 * 1024
    assert cache_mib(decide(a_request(2), ram(2.1))) == 0


def test_a_small_model_gets_no_more_than_sixteen_of_its_contexts():
    assert cache_mib(decide(a_request(2, context_gib=0.0625), ram(1000))) == 1024


def test_it_is_booked():
    place = decide(a_request(2), ram(18)).placement
    assert place is not None
    assert place.booked_bytes == {CPU: 4 * GIB} and place.needs[UNBOOKED_RAM] == 4 * GIB
    assert place.estimated_bytes == 2 * GIB


def test_a_configured_size_is_needed_like_the_model_itself():
    fixed = a_request(2, prompt_cache=3 * GIB)
    assert cache_mib(decide(fixed, ram(5))) == 3 * 1024
    assert outcome(decide(fixed, ram(4.9))) == (Outcome.REFUSE, ())
    assert outcome(decide(fixed, ram(4, holding(1, 2)))) == (Outcome.EVICT, (1,))
    assert cache_mib(decide(a_request(2, prompt_cache=0), ram(18))) == 0


def test_after_an_eviction_only_what_is_left_then_counts():
    decision = decide(a_request(4), ram(3, holding(1, 9)))
    assert outcome(decision) == (Outcome.EVICT, (1,)) and cache_mib(decision) == 1024


@pytest.mark.parametrize(
    ("cache_gib", "options", "parks"),
    [(1, {}, True), (0.9, {}, False), (1, {"kv_unified": False}, False)],
)
def test_idle_slots_are_emptied_only_into_a_cache_that_holds_all_of_them(cache_gib, options, parks):
    """What is too large for the cache is lost when llama-server empties a slot; without a cache it stays."""
    place = decide(a_request(2, prompt_cache=int(cache_gib * GIB), **options), ram(18)).placement
    assert place is not None and place.parks_idle_slots is parks


# --- in the way of another model -----------------------------------------------------------------------------------


def test_a_model_that_lacks_only_the_ram_of_a_cache_gets_it_from_the_server_that_has_it():
    """Not from the server that would be cheaper to evict."""
    cheaper = holding(1, 4, idle_seconds=10_000)
    decision = decide(a_request(4), ram(3, cheaper, holding(2, 6, cache_gib=1)))
    assert outcome(decision) == (Outcome.EVICT, (2,)) and decision.restarts == (2,)
    assert decision.reason.endswith("without the prompt cache of m2")


def test_of_several_caches_no_more_are_taken_than_needed():
    caches = [holding(id, 4, cache_gib=1) for id in (1, 2, 3)]
    assert outcome(decide(a_request(4), ram(3.5, *caches)))[1] in ((1,), (2,), (3,))


def test_nothing_is_evicted_for_the_cache_of_a_busy_server():
    decision = decide(a_request(4), ram(3, holding(1, 4), holding(2, 6, cache_gib=1, is_busy=True)))
    assert outcome(decision) == (Outcome.WAIT, (2,))
    assert (decision.cause, decision.awaited) == (WaitCause.BUSY, (2,))


def test_a_pinned_server_gives_up_its_cache_too():
    """It is loaded again: a pin must not make a spare cache a reason to refuse others."""
    pinned = holding(1, 6, cache_gib=1, is_pinned=True)
    assert outcome(decide(a_request(4), ram(3, pinned))) == (Outcome.EVICT, (1,))
    assert outcome(decide(a_request(5), ram(3, pinned))) == (Outcome.REFUSE, ())


def test_a_model_that_lacks_more_than_caches_evicts_as_before():
    decision = decide(a_request(8), ram(3, holding(1, 5), holding(2, 6, cache_gib=1, is_busy=True)))
    assert outcome(decision) == (Outcome.EVICT, (1,)) and decision.restarts == ()


def test_no_more_servers_are_evicted_than_without_caches():
    residents = holding(1, 3, idle_seconds=9000), holding(2, 3), holding(3, 6, cache_gib=1)
    decision = decide(a_request(7), ram(3.5, *residents))
    assert outcome(decision) == (Outcome.EVICT, (1, 3)) and decision.restarts == (3,)


def test_the_cache_of_a_pinned_server_does_not_shorten_an_automatic_context():
    shape = tiny_shape()
    request = replace(a_request(4), shape=shape)
    auto = replace(request, constraints=replace(request.constraints, has_auto_context=True))
    totals = {CPU: 16 * GIB, UNBOOKED_RAM: 16 * GIB}
    world = replace(ram(8, holding(1, 8, cache_gib=2, is_pinned=True)), totals=totals)
    without = replace(ram(10, holding(1, 6, is_pinned=True)), totals=totals)
    chosen = [decide(auto, each).placement for each in (world, without)]
    assert chosen[0] and chosen[1] and chosen[0].ctx_size == chosen[1].ctx_size
