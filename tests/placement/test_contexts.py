"""`ctx_size: auto`: the same context each time, whatever is loaded; shorter only for memory we cannot free."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from app.entities.launch import AUTO_UBATCH, ModelOptions, Task
from app.entities.memory import Estimate
from app.entities.placement import CPU, UNBOOKED_RAM, Decision, Outcome
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.hparams import Hparams
from app.use_cases.placement.contexts import choose_context, max_request_tokens
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import LearnedMargin, PlacementRequest
from app.use_cases.placement.world import World
from tests.placement.test_placement import GIB, LARGE, MODELS, SMALL, a_world, card, request, resident, where

RAM = {CPU: 64 * GIB, UNBOOKED_RAM: 64 * GIB}


def auto(model: tuple[str, str] = SMALL, trained: int | None = None, **constraints: object) -> PlacementRequest:
    """A model with ctx_size auto; `trained`: its own context instead of the file's."""
    found = request(model, has_auto_context=True, **constraints)
    if trained is None:
        return found
    header = found.shape.hparams.header
    metadata = {**header.metadata, f"{header.architecture}.context_length": trained}
    return replace(found, shape=replace(found.shape, hparams=Hparams(replace(header, metadata=metadata))))


def context(decision: Decision) -> int:
    placement = decision.placement or decision.awaited_placement
    assert placement is not None, decision
    return placement.ctx_size


def on_an_empty(model: PlacementRequest, *total_gib: float, ram: dict[str, int] = RAM) -> int:
    cards = tuple(card(index, total, total) for index, total in enumerate(total_gib))
    return context(decide(model, World(cards, shared=ram, totals=ram)))


# --- by the machine ---------------------------------------------------------------------------------------------


def test_it_is_the_longest_that_fits_an_empty_gpu_together_with_the_weights():
    """8B at Q4: 4.9 GiB, and 128 KiB for each token: 0.5 GiB with 4k, 4 GiB with 32k."""
    assert [on_an_empty(auto(), gib) for gib in (5.7, 6.2, 7.3, 12, 16)] == [4096, 8192, 16384, 32768, 32768]


def test_the_longest_contexts_take_half_of_a_gpu_at_most():
    """With 64k it takes 13.0 GiB, with 128k 21.0."""
    found = [on_an_empty(auto(), gib) for gib in (24, 25.8, 26, 42, 42.2, 80)]
    assert found == [32768] * 2 + [65536] * 2 + [131072] * 2


def test_it_is_that_of_the_largest_gpu_the_model_may_use():
    assert on_an_empty(auto(), 6.2, 16) == 32768
    assert on_an_empty(auto(exclude=("GPU-1",)), 6.2, 16) == 8192
    assert on_an_empty(auto(gpus=("0",)), 6.2, 16) == 8192


def test_a_model_too_large_for_one_gpu_has_what_fits_the_fewest_that_hold_it():
    """70B at Q4: 41 GiB, and 320 KiB for each token: 1.25 GiB with 4k, 5 GiB with 16k."""
    cards = tuple(card(index, 24) for index in range(4))
    found = decide(auto(LARGE), World(cards, shared=RAM, totals=RAM))
    assert (context(found), len(where(found))) == (16384, 2), "not a longer one on three"
    assert on_an_empty(auto(LARGE), 30, 30) == 32768
    assert on_an_empty(auto(LARGE), 80, 80) == 32768
    assert on_an_empty(auto(min_gpus=2), 16, 16) == 65536, "half of both"


def test_on_the_cpu_the_whole_takes_half_of_ram_at_most():
    def of(gib: int) -> int:
        return on_an_empty(auto(), ram={CPU: gib * GIB, UNBOOKED_RAM: gib * GIB})

    assert [of(gib) for gib in (8, 11, 12, 14, 18, 26, 48)] == [4096, 4096, 8192, 16384, 32768, 65536, 131072]


def test_on_a_gpu_whose_memory_is_ram_the_whole_takes_half_of_it_at_most():
    """What it needs of the GPU and of RAM counts together."""
    shared = {CPU: 17 * GIB, UNBOOKED_RAM: 17 * GIB}
    unified = card(0, 17, 17, is_unified=True)
    assert on_an_empty(auto(), 17) == 32768
    assert context(decide(auto(), World((unified,), shared=shared, totals=shared))) == 16384


def test_layers_that_have_their_context_in_ram_count_as_the_cpu():
    few = auto()
    few = replace(few, options=replace(few.options, n_gpu_layers=8))
    small_ram = {CPU: 12 * GIB, UNBOOKED_RAM: 12 * GIB}
    assert (on_an_empty(few, 24), on_an_empty(few, 24, ram=small_ram)) == (131072, 16384)


def test_layers_on_gpus_come_before_context_and_experts_in_ram_do_not_shorten_it():
    assert on_an_empty(auto(LARGE, partial_offload=True), 24) == 4096
    assert on_an_empty(auto(("qwen3-30b-a3b", "Q4_K_M"), cpu_moe=True), 8) == 32768


def test_it_is_never_above_the_models_own():
    """A context below the smallest step is taken as it is, one between two steps is not."""
    owns = (0, 512, 2048, 4096, 20_000, 40_960)
    assert [on_an_empty(auto(trained=own), 80) for own in owns] == [4096, 512, 2048, 4096, 16384, 32768]
    assert [max_request_tokens(auto(trained=own)) for own in owns] == [4096, 512, 2048, 4096, 16384, 32768]
    assert max_request_tokens(auto()) == 131072


def test_models_that_embed_or_rerank_get_none_of_the_longest():
    """8B at Q4: an input is computed at once, whose logits take 501 KiB for each token: 3.9 GiB with 8k."""
    for task in (Task.EMBEDDING, Task.RERANK):
        model = auto()
        options = replace(model.options, task=task, ubatch_size=AUTO_UBATCH)
        found = [on_an_empty(replace(model, options=options), gib) for gib in (12, 19, 24, 80)]
        assert found == [4096, 4096, 8192, 8192], "half of the GPU at most, but for the smallest"


def test_all_slots_share_it():
    """As llama-server's -c: with a cache of its own each slot has a part."""
    apart = auto()
    apart = replace(apart, options=replace(apart.options, parallel=4, kv_unified=False))
    assert (on_an_empty(apart, 24), max_request_tokens(apart)) == (32768, 32768)


# --- never by what is loaded ----------------------------------------------------------------------------------------


def test_three_models_load_beside_each_other_on_two_gpus():
    """8B at Q4 on cards of 24 GiB: with 32k each takes 8.9 GiB."""
    world = World((card(0, 23.5, 23.5), card(1, 23.5, 23.5)), shared=RAM, totals=RAM)
    cards = []
    for _ in range(3):
        found = decide(auto(), world)
        assert (found.outcome, context(found)) == (Outcome.PLACE, 32768)
        cards.append(where(found))
        world = world.with_reservation(found.placement, ())
    assert sorted(cards) == [("GPU-0",), ("GPU-0",), ("GPU-1",)]


def test_a_model_that_does_not_fit_now_is_waited_or_evicted_for():
    full = card(0, 7, 23.5)  # 16k would fit
    idle = decide(auto(), World((full,), (resident(1, GPU_0=16),)))
    assert (idle.outcome, idle.evict, context(idle)) == (Outcome.EVICT, (1,), 32768)
    busy = decide(auto(), World((full,), (resident(1, busy=True, GPU_0=16),)))
    assert (busy.outcome, busy.evict, context(busy)) == (Outcome.WAIT, (1,), 32768)
    ending = decide(auto(), World((replace(full, releasing_bytes=16 * GIB),)))
    assert (ending.outcome, context(ending)) == (Outcome.WAIT, 32768)


@pytest.mark.seeds(3)
def test_what_is_loaded_and_what_is_free_make_no_difference(seed: int):
    chance = random.Random(seed)
    for _ in range(60):
        world, model = a_world(chance), auto(chance.choice(MODELS), min_gpus=chance.choice((1, 1, 2)))
        unpinned = tuple(replace(each, is_pinned=False) for each in world.residents)
        crowded = replace(world, residents=unpinned)
        found = choose_context(model, crowded)
        empty = choose_context(replace(model, found_contexts={}), replace(world.empty(), shared=world.shared))
        assert found == empty and not found.is_shortened
        decision = decide(model, crowded)
        if decision.placement:
            assert decision.placement.ctx_size == found.ctx_size


def test_what_earlier_starts_took_makes_no_difference_as_long_as_it_fits():
    """Otherwise the first measurement would change the context of the next load."""
    model = auto()

    def less(options: ModelOptions, _: tuple[str, ...]) -> Estimate:
        found = estimate_memory(model.shape, options)
        return replace(found, devices=tuple(replace(each, weights_bytes=GIB) for each in found.devices))

    measured = replace(auto(), estimate=less, estimate_without_history=model.estimate)
    assert on_an_empty(replace(auto(), estimate=less), 6.2) == 32768
    assert on_an_empty(measured, 6.2) == on_an_empty(model, 6.2) == 8192


def test_a_context_that_the_engine_reported_to_be_too_large_is_not_tried_again():
    more = auto().with_margin(LearnedMargin(device_bytes=GIB))
    assert (on_an_empty(auto(), 7.3), on_an_empty(more, 7.3)) == (16384, 8192)
    assert on_an_empty(auto().with_margin(LearnedMargin(device_bytes=20 * GIB)), 40) == 32768


def test_what_was_found_is_remembered_with_the_file():
    model, calls = auto(), []

    def counted(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        calls.append(options)
        return estimate_memory(model.shape, options)

    first = replace(model, estimate=counted)
    assert choose_context(first, World((card(0, 24),))) == choose_context(first, World((card(0, 3),)))
    assert len(calls) == len(set(calls))


# --- memory that is not ours to free -----------------------------------------------------------------------------


def test_other_processes_are_waited_for_and_the_shorter_context_is_announced():
    found = decide(auto(), World((card(0, 7.3),)))
    assert (found.outcome, found.shorter_ctx_size, found.evict) == (Outcome.WAIT, 16384, ())
    assert found.reason == (
        "waiting for other processes' memory for a context of 32,768; if it stays short, it gets 16,384"
    )
    assert decide(auto(), World((card(0, 3),))).outcome is Outcome.REFUSE, "there is no memory for any context"


def test_what_they_hold_for_long_shortens_it_and_the_decision_says_so():
    world = World((card(0, 7.3),), taken={"GPU-0": int(16.7 * GIB)})
    found = decide(auto(), world)
    assert (found.outcome, context(found), found.placement.full_ctx_size) == (Outcome.PLACE, 16384, 32768)
    why = "context 16,384 instead of 32,768: other processes hold 17,101 MiB of GPU 0 (RTX 4090)"
    assert found.reason == f"fits on GPU 0 (RTX 4090); {why}"
    idle = decide(auto(), replace(world, cards=(card(0, 1),), residents=(resident(1, GPU_0=6.3),)))
    assert (idle.outcome, context(idle)) == (Outcome.EVICT, 16384), "not even shorter for what is loaded"


def test_only_the_gpus_that_the_model_may_use_shorten_it():
    world = World((card(0, 7.3), card(1, 24)), taken={"GPU-0": int(16.7 * GIB)})
    assert context(decide(auto(), world)) == 32768
    assert context(decide(auto(gpus=("0",)), world)) == 16384


def test_on_the_cpu_other_processes_shorten_it_in_the_same_way():
    full = {CPU: 32 * GIB, UNBOOKED_RAM: 32 * GIB}
    waits = decide(auto(), World((), shared={**full, CPU: 6 * GIB}, totals=full))
    assert (waits.outcome, waits.shorter_ctx_size) == (Outcome.WAIT, 8192)
    found = decide(auto(), World((), shared={**full, CPU: 6 * GIB}, totals=full, taken={CPU: 26 * GIB}))
    assert context(found) == 8192 and found.reason.endswith("other processes hold 26,624 MiB of RAM")


def test_pinned_models_shorten_it_at_once_because_no_wait_would_help():
    world = World((card(0, 7.3),), (resident(1, pinned=True, GPU_0=16.7),))
    found = decide(auto(), world)
    assert (context(found), found.placement.full_ctx_size) == (16384, 32768)
    assert found.reason.endswith("; context 16,384 instead of 32,768: pinned models are not evicted: m1")


def test_a_missing_gpu_counts_as_part_of_the_machine_until_it_is_taken():
    present, absent = card(0, 7.3, 7.3), card(1, 0, 24)
    waits = decide(auto(), World((present,), absent=(absent,)))
    assert (waits.outcome, waits.shorter_ctx_size) == (Outcome.WAIT, 16384)
    assert waits.reason.startswith("waiting for missing GPUs, or for other processes to release memory, for a context")
    found = decide(auto(), World((present,), absent=(absent,), taken={"GPU-1": 24 * GIB}))
    assert context(found) == 16384
    assert found.reason.endswith("context 16,384 instead of 32,768: GPU 1 (RTX 4090) is missing")


def test_a_configured_context_is_never_changed():
    world = World((card(0, 7.3),), taken={"GPU-0": int(16.7 * GIB)})
    assert decide(request(ctx_size=32768), world).outcome is Outcome.REFUSE
    assert context(decide(request(ctx_size=5000), World((card(0, 24),)))) == 5000
