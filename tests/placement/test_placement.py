"""Placement: the right GPU, or the fewest, in constructed and random worlds of GPUs and servers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from app.entities.launch import ModelOptions
from app.entities.memory import Confidence
from app.entities.placement import CPU, Card, Decision, Outcome, PlacementConstraints, Policy, Resident, Strategy
from app.entities.refusal import Reason, Refusal
from app.errors import error_for
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.tensor_split import layer_ranges
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from bench.estimate import shape_of

GIB = 1024**3
SMALL, LARGE = ("llama-3.1-8b", "Q4_K_M"), ("llama-3.1-70b", "Q4_K_M")  # some 5.5 and 41 GiB with 4k


def request(model: tuple[str, str] = SMALL, ctx_size: int = 4096, **constraints: object) -> PlacementRequest:
    shape = shape_of(*model)
    options = ModelOptions(ctx_size=ctx_size)
    return PlacementRequest(
        shape, options, lambda changed, _: estimate_memory(shape, changed), PlacementConstraints(**constraints)
    )


def card(index: int, free: float, total: float = 24, **more: object) -> Card:
    return Card(f"GPU-{index}", "RTX 4090", index, int(total * GIB), int(free * GIB), **more)


def resident(number: int, idle: float = 600, busy: bool = False, pinned: bool = False, **gib: float) -> Resident:
    held = {uuid.replace("_", "-"): int(size * GIB) for uuid, size in gib.items()}
    return Resident(number, f"m{number}", held, busy, idle, pinned)


def where(decision: Decision) -> tuple[str, ...]:
    assert decision.placement is not None, decision
    return decision.placement.uuids


def test_pack_takes_the_fullest_gpu_that_fits_and_spread_the_emptiest():
    cards = (card(0, 20), card(1, 8), card(2, 4))
    assert where(decide(request(), World(cards))) == ("GPU-1",)
    assert where(decide(request(), World(cards, policy=Policy(Strategy.SPREAD)))) == ("GPU-0",)
    assert where(decide(request(), World(cards, policy=Policy(order=("GPU-0",))))) == ("GPU-0",)


def test_an_idle_gpu_is_preferred_to_a_busy_one():
    cards = (card(0, 8, is_busy=True), card(1, 20))
    assert where(decide(request(), World(cards))) == ("GPU-1",)


DISPLAY = card(0, 8, drives_display=True)  # the one that `pack` would take


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_gpu_of_a_display_is_used_last(strategy: Strategy):
    """A compositor freezes when its GPU is full."""
    display = replace(DISPLAY, usable_bytes=(8 if strategy is Strategy.PACK else 24) * GIB)
    decision = decide(request(), World((display, card(1, 20)), policy=Policy(strategy)))
    assert where(decision) == ("GPU-1",)
    assert decision.reason == "fits on GPU 1 (RTX 4090); used last: GPU 0 (RTX 4090, drives a display)"


def test_the_order_and_idleness_count_more_than_a_display():
    for world in (
        World((DISPLAY, card(1, 20)), policy=Policy(order=("GPU-0",))),
        World((DISPLAY, card(1, 20, is_busy=True))),
        World((DISPLAY, card(1, 2))),
    ):
        decision = decide(request(), world)
        assert where(decision) == ("GPU-0",)
        assert decision.reason == "fits on GPU 0 (RTX 4090, drives a display)"


def test_the_reason_is_silent_about_a_display_that_changed_nothing():
    decision = decide(request(), World((replace(DISPLAY, usable_bytes=24 * GIB), card(1, 20))))
    assert decision.reason == "fits on GPU 1 (RTX 4090)"


def test_a_split_uses_the_gpu_of_a_display_only_if_as_few_others_do_not_hold_the_model():
    display, others = card(0, 24, drives_display=True), (card(1, 23), card(2, 23))
    assert where(decide(request(LARGE), World((display, *others)))) == ("GPU-1", "GPU-2")
    smaller = replace(others[1], usable_bytes=12 * GIB)
    assert where(decide(request(LARGE), World((display, others[0], smaller)))) == ("GPU-0", "GPU-1")


def tensors(model: tuple[str, str] = LARGE, mode: str = "tensor") -> PlacementRequest:
    found = request(model)
    return replace(found, options=replace(found.options, split_mode=mode))


def test_split_mode_tensor_gives_each_gpu_an_equal_part_of_every_tensor():
    decision = decide(tensors(), World((card(0, 30, 32), card(1, 28, 32))))
    assert decision.placement is not None
    assert (decision.placement.tensor_split, decision.placement.layers) == ((1, 1), (81, 81))
    assert decision.reason == "no single GPU has enough memory; fits on 2 GPUs together in split mode tensor"
    first, second = decision.placement.estimate.devices
    assert first == second and first.margin_bytes > 2 * GIB  # nobody has measured it on such cards
    assert decision.placement.estimate.confidence is Confidence.LOW


def test_its_parts_are_as_large_as_the_gpus_have_room_for():
    decision = decide(tensors(), World((card(0, 38, 48), card(1, 14, 24))))
    assert decision.placement is not None
    large, small = decision.placement.tensor_split
    # 38 and 14 GiB, less about one of CUDA and of compute buffers: 37 / 50
    assert 0.73 < large / (large + small) < 0.75
    booked = [each.booked_bytes for each in decision.placement.estimate.devices]
    assert booked[0] <= 38 * GIB and booked[1] <= 14 * GIB


def test_a_model_on_one_gpu_and_one_that_llama_cpp_cannot_share_are_not_shared():
    on_one = decide(tensors(SMALL), World((card(0, 20), card(1, 20))))
    assert on_one.placement is not None and on_one.placement.tensor_split == ()
    by_layers = decide(tensors(("deepseek-v2-lite", "Q4_K_M")), World((card(0, 8), card(1, 8))))
    assert by_layers.placement is not None and sum(by_layers.placement.layers) == 28 and not by_layers.placement.shares
    assert by_layers.reason.endswith("split by layers: llama.cpp has no split mode tensor for deepseek2")


def test_only_allowed_gpus_are_used():
    cards = (card(0, 8), card(1, 20))
    assert where(decide(request(gpus=("1",)), World(cards))) == ("GPU-1",)
    assert where(decide(request(exclude=("GPU-0",)), World(cards))) == ("GPU-1",)
    assert decide(request(gpus=("7",)), World(cards)).outcome is Outcome.REFUSE


def test_a_long_idle_server_is_evicted_rather_than_splitting_a_model():
    """19 GiB, GPUs with 15 and 14 GiB free, one with an idle 6 GiB server: evicted if idle for long, else a split."""
    model = request(("qwen2.5-32b", "Q4_K_M"), ctx_size=512)
    cards = (card(0, 15, 16), card(1, 14, 20))
    long_idle = decide(model, World(cards, (resident(7, idle=600, GPU_1=6),)))
    assert (long_idle.outcome, long_idle.evict, where(long_idle)) == (Outcome.EVICT, (7,), ("GPU-1",))
    just_used = decide(model, World(cards, (resident(7, idle=5, GPU_1=6),)))
    assert (just_used.outcome, len(where(just_used))) == (Outcome.PLACE, 2)


def test_of_many_servers_none_is_evicted_that_a_later_one_makes_unnecessary():
    """More servers than are compared as sets: the first sufficient ones, less those that turn out unnecessary."""
    small = [resident(number, idle=1000 - number, GPU_0=0.5) for number in range(1, 10)]
    large = resident(99, idle=10, GPU_0=12)
    found = decide(request(("qwen2.5-32b", "Q4_K_M")), World((card(0, 11, 24),), (*small, large)))
    assert (found.outcome, found.evict) == (Outcome.EVICT, (99,))


def test_the_cheapest_servers_are_evicted_and_none_in_vain():
    servers = (
        resident(1, idle=100, GPU_0=2),
        resident(2, idle=5000, GPU_0=6),
        resident(3, idle=9000, GPU_1=0.5),
        resident(4, busy=True, GPU_1=20),
    )
    found = decide(request(), World((card(0, 1), card(1, 1)), servers))
    assert (found.outcome, found.evict) == (Outcome.EVICT, (2,))


def test_a_model_is_split_rather_than_evicting_within_the_minimum_residency():
    cards = (card(0, 0), card(1, 1), card(2, 1))
    young = replace(resident(1, 30, GPU_0=8), is_in_min_residency=True)
    old = (resident(2, 30, GPU_1=3.5), resident(3, 30, GPU_2=3.5))
    assert decide(request(), World(cards, (young, *old))).evict == (2, 3)
    assert decide(request(), World(cards, (replace(young, is_in_min_residency=False), *old))).evict == (1,)


def test_a_surplus_replica_is_evicted_first_whatever_its_age_cost_or_last_use():
    def surplus(**gib: float) -> Resident:
        return replace(
            resident(1, 1, **gib),
            is_surplus=True,
            is_in_min_residency=True,
            priority=7,
            requests_per_second=9.0,
            load_seconds=60.0,
        )

    full = (card(0, 0), card(1, 0))
    old = replace(resident(2, 900, GPU_1=8), requests_per_second=0.01, load_seconds=1.0)
    assert decide(request(), World(full, (old, surplus(GPU_0=8)))).evict == (1,)
    assert decide(request(), World(full, (surplus(GPU_1=4), old, resident(3, 900, GPU_0=8)))).evict == (3,), (
        "not in vain"
    )
    # 19 GiB: evicted rather than splitting the model over free memory.
    model = request(("qwen2.5-32b", "Q4_K_M"), ctx_size=512)
    found = decide(model, World((card(0, 15, 16), card(1, 14, 20)), (surplus(GPU_1=6),)))
    assert (found.outcome, found.evict, where(found)) == (Outcome.EVICT, (1,), ("GPU-1",))
    on_two = World((card(0, 9, 14), card(1, 9, 14)), (replace(old, held_bytes={"GPU-0": 3 * GIB}), surplus(GPU_1=3)))
    assert (len(where(decide(model, on_two))), decide(model, on_two).evict) == (2, (1,))


def test_for_a_split_no_server_is_evicted_in_vain():
    servers = (resident(1, idle=9000, GPU_2=1), resident(2, idle=500, GPU_0=15), resident(3, idle=400, GPU_1=15))
    found = decide(request(LARGE), World((card(0, 8), card(1, 8), card(2, 1)), servers))
    assert (found.outcome, set(found.evict), set(where(found))) == (Outcome.EVICT, {2, 3}, {"GPU-0", "GPU-1"})


def test_a_split_uses_the_fewest_gpus_and_books_what_llama_cpp_allocates():
    cards = tuple(card(index, 22) for index in range(4))
    found = decide(request(LARGE), World(cards))
    assert found.outcome is Outcome.PLACE and len(where(found)) == 2
    placement = found.placement
    assert placement is not None
    hp = shape_of(*LARGE).hparams
    assert [len(each) for each in layer_ranges(hp.n_layer_all, 999, placement.tensor_split)] == list(placement.layers)
    assert all(placement.booked_bytes[uuid] <= 22 * GIB for uuid in placement.uuids)


def test_fewer_gpus_are_preferred_to_fewer_evictions():
    """70B on four GPUs after one eviction, or on two after two."""
    servers = tuple(resident(n, idle=9000 - n, **{f"GPU_{n}": 14}) for n in range(2))
    world = World((card(0, 8), card(1, 8), card(2, 11), card(3, 11)), servers)
    found = decide(request(LARGE), world)
    assert (found.outcome, set(found.evict), set(where(found))) == (Outcome.EVICT, {0, 1}, {"GPU-0", "GPU-1"})


def test_unequal_gpus_get_layers_by_their_free_memory():
    found = decide(request(LARGE), World((card(0, 12), card(1, 38, 40))))
    assert where(found) == ("GPU-1", "GPU-0")
    large, small = found.placement.layers
    assert large > 2 * small


def test_min_and_max_gpus():
    cards = tuple(card(index, 22) for index in range(4))
    assert len(where(decide(request(min_gpus=3), World(cards)))) == 3
    assert decide(request(LARGE, max_gpus=1), World(cards)).outcome is Outcome.REFUSE


def test_busy_servers_are_waited_for_and_other_processes_are_not():
    busy = decide(request(), World((card(0, 1),), (resident(1, busy=True, GPU_0=20),)))
    assert busy.outcome is Outcome.WAIT and "m1" in busy.reason
    releasing = decide(request(), World((card(0, 1, releasing_bytes=20 * GIB),)))
    assert releasing.outcome is Outcome.WAIT and "waiting for memory being released: " in releasing.reason
    pinned = decide(request(), World((card(0, 1),), (resident(1, pinned=True, GPU_0=20),)))
    other_process = decide(request(), World((card(0, 1),)))
    for refused in (pinned, other_process):
        assert (refused.outcome, refused.is_permanent) == (Outcome.REFUSE, False)
        assert refused.free_bytes == {"GPU-0": GIB}


def test_a_model_that_never_fits_gets_a_suggestion():
    found = decide(request(ctx_size=131072), World((card(0, 11, 12),)))
    assert (found.outcome, found.is_permanent) == (Outcome.REFUSE, True)
    assert found.needed_bytes > 12 * GIB
    assert found.suggestion == "cache_type_k and cache_type_v q4_0"
    hopeless = decide(request(LARGE), World((card(0, 11, 12),), shared={CPU: GIB}, totals={CPU: 2 * GIB}))
    assert (hopeless.is_permanent, hopeless.suggestion) == (True, "")


@pytest.mark.parametrize(
    ("model", "constraints", "cards", "suggestion"),
    [
        (LARGE, {}, 1, "partial_offload on"),
        (LARGE, {"max_gpus": 1}, 3, "max_gpus null"),
        (SMALL, {"min_gpus": 2}, 1, "min_gpus 1"),
        (("qwen3-30b-a3b", "F16"), {}, 1, "cpu_moe on"),
    ],
    ids=str,
)
def test_if_no_smaller_cache_fits_a_placement_setting_is_suggested(model, constraints, cards, suggestion):
    found = decide(request(model, **constraints), World(tuple(card(index, 22) for index in range(cards))))
    assert (found.is_permanent, found.suggestion) == (True, suggestion)


def test_the_reason_names_a_configured_split():
    found = decide(request(min_gpus=2), World((card(0, 20), card(1, 20))))
    assert found.reason.startswith("min_gpus is 2; fits on 2 GPUs together")


def test_the_reason_names_what_is_permanently_short():
    """RAM is short for now, GPU memory permanently."""
    found = decide(request(LARGE), World((card(0, 11, 12),), shared={CPU: 0}, totals={CPU: 64 * GIB}))
    assert found.is_permanent and "on one GPU" in found.reason and "RAM" not in found.reason
    alone = decide(request(min_gpus=3), World((card(0, 20), card(1, 20))))
    assert "min_gpus is 3, but only 2 are available for a split; usable at most: " in alone.reason


def test_a_refusal_names_gpus_that_are_alike_together():
    cards = tuple(card(number, 1, 3 if number == 2 else 2) for number in range(5))
    reason = decide(request(LARGE), World(cards)).reason
    assert reason.endswith("GPUs 0, 1, 3, 4 (RTX 4090) 2,048 MiB each, GPU 2 (RTX 4090) 3,072 MiB")


def test_if_ram_is_short_the_numbers_are_those_of_ram():
    found = decide(request(), World((card(0, 20),), shared={CPU: 0}, totals={CPU: 64 * GIB}))
    assert "of RAM" in found.reason and found.needed_bytes < GIB
    assert found.free_bytes == {CPU: 0}


def test_absent_gpus_are_reported_without_suggesting_a_smaller_file():
    found = decide(request(gpus=("GPU-z",)), World((card(0, 20),)))
    error = error_for(Refusal(Reason.DOES_NOT_FIT, "m", found.reason, found.needed_bytes))
    assert (
        str(error) == "m: none of the GPUs allowed by its settings is present (gpus: GPU-z); present: GPU 0 (RTX 4090)"
    )


def test_the_cpu_is_used_without_gpus_and_otherwise_only_if_configured():
    assert where(decide(request(), World((), shared={CPU: 64 * GIB}))) == (CPU,)
    assert decide(request(), World((), shared={CPU: GIB})).outcome is Outcome.REFUSE
    full = World((card(0, 1),), shared={CPU: 64 * GIB})
    assert decide(request(), full).outcome is Outcome.REFUSE
    assert where(decide(request(cpu_when_full=True), full)) == (CPU,)


def test_experts_or_layers_stay_in_ram_if_configured():
    world = World((card(0, 10),), shared={CPU: 64 * GIB})
    experts = decide(request(("qwen3-30b-a3b", "Q4_K_M"), cpu_moe=True), world)
    assert experts.placement.n_cpu_moe == 999 and experts.placement.booked_bytes["GPU-0"] <= 10 * GIB
    layers = decide(request(LARGE, partial_offload=True), world)
    assert 0 < layers.placement.n_gpu_layers < 80 and layers.placement.booked_bytes["GPU-0"] <= 10 * GIB


def test_partial_offload_uses_all_allowed_gpus_for_the_most_layers():
    def layers(model: PlacementRequest) -> tuple[int, int]:
        found = decide(model, World((card(0, 10), card(1, 16)), shared={CPU: 64 * GIB}))
        assert all(found.placement.booked_bytes[uuid] <= found.free_bytes[uuid] for uuid in where(found))
        assert sum(found.placement.layers) == found.placement.n_gpu_layers
        return found.placement.n_gpu_layers, len(where(found))

    both, cards = layers(request(LARGE, partial_offload=True))
    alone, card_ = layers(request(LARGE, partial_offload=True, max_gpus=1))
    assert (cards, card_) == (2, 1) and 30 < both < 50 and alone < both - 10


def test_every_step_records_its_numbers():
    found = decide(request(LARGE), World((card(0, 20), card(1, 21))))
    assert found.considered[0].startswith("one GPU, context 4096: needs 4") and "0 of 2" in found.considered[0]


def test_idle_servers_are_evicted_for_a_partial_offload_too():
    ram = {CPU: 64 * GIB}
    full = World((card(0, 0.2),), (resident(1, idle=500, GPU_0=23),), ram)
    layers = decide(request(LARGE, partial_offload=True), full)
    assert (layers.outcome, layers.evict, where(layers)) == (Outcome.EVICT, (1,), ("GPU-0",))
    assert 30 < layers.placement.n_gpu_layers < 80
    experts = decide(request(("qwen3-30b-a3b", "Q4_K_M"), 131072, cpu_moe=True), full)
    assert (experts.outcome, experts.evict, experts.placement.n_cpu_moe) == (Outcome.EVICT, (1,), 999)
    busy = decide(request(LARGE, partial_offload=True), replace(full, residents=(resident(1, busy=True, GPU_0=23),)))
    assert (busy.outcome, busy.evict) == (Outcome.WAIT, (1,))
    in_ram = Resident(2, "m2", {CPU: 30 * GIB}, idle_seconds=500)
    when_full = decide(request(cpu_when_full=True), World((card(0, 0.2),), (in_ram,), {CPU: 2 * GIB}))
    assert (when_full.outcome, when_full.evict, where(when_full)) == (Outcome.EVICT, (2,), (CPU,))


def test_more_gpu_layers_are_worth_waiting_for_memory_being_released():
    """It becomes free in steps: a load must not start with the few layers that fit first."""
    cards = (card(0, 5, releasing_bytes=17 * GIB),)
    found = decide(request(LARGE, partial_offload=True), World(cards, shared={CPU: 64 * GIB}))
    assert found.outcome is Outcome.WAIT


def test_no_server_is_evicted_if_the_memory_is_claimed_or_reserved():
    """2 GiB more are claimed than are free: evicting a 6 GiB server leaves 4 GiB usable, and 5.4 are needed."""
    assert decide(request(), World((card(0, -2),), (resident(1, GPU_0=6),))).outcome is Outcome.REFUSE
    found = decide(request(), World((card(0, -2),), (resident(1, GPU_0=8),)))
    assert (found.outcome, found.evict, found.free_bytes) == (Outcome.EVICT, (1,), {"GPU-0": 0})


def test_no_server_is_evicted_from_a_gpu_that_is_too_small_anyway():
    """Held memory may already count as free, so that the sum exceeds the GPU's total."""
    found = decide(request(), World((card(0, 5, 5.2),), (resident(1, GPU_0=2),)))
    assert (found.outcome, found.is_permanent) == (Outcome.REFUSE, True)
    two = World((card(0, 20, 20), card(1, 20, 20)), (resident(1, GPU_0=9), resident(2, GPU_1=9)))
    assert decide(request(LARGE), two).outcome is Outcome.REFUSE


def test_a_suggestion_is_never_a_larger_cache():
    model = request(ctx_size=131072)
    small = replace(model.options, cache_type_k="q4_0", cache_type_v="q4_0")
    found = decide(replace(model, options=small), World((card(0, 5.1, 5.1),)))
    assert found.suggestion == "ctx_size 4096"


# --- random worlds -----------------------------------------------------------------------------------------

MODELS = (SMALL, LARGE, ("qwen3-30b-a3b", "Q4_K_M"), ("gemma-3-12b", "Q4_K_M"), ("deepseek-v2-lite", "Q4_K_M"))


def a_world(chance: random.Random) -> World:
    cards, servers = [], []
    for index in range(chance.randint(1, 6)):
        total = chance.choice((8, 12, 16, 24, 48, 80))
        cards.append(card(index, chance.uniform(0, total), total, is_busy=chance.random() < 0.3))
    for number in range(chance.randint(0, 4)):
        on = chance.choice(cards)
        held = {on.uuid: int(chance.uniform(0, (on.total_bytes - on.usable_bytes) / 4))}
        state = chance.random() < 0.3, chance.uniform(0, 1000), chance.random() < 0.1
        servers.append(Resident(number, f"m{number}", held, *state))
    return World(tuple(cards), tuple(servers), {CPU: 64 * GIB})


@pytest.fixture(scope="module")
def decided(seed: int) -> list[tuple[PlacementRequest, World, Decision]]:
    chance = random.Random(seed)
    found = []
    for _ in range(400):
        model = request(chance.choice(MODELS), chance.choice((4096, 32768)), min_gpus=chance.choice((1, 1, 1, 2)))
        world = a_world(chance)
        found.append((model, world, decide(model, world)))
    return found


def free_after(world: World, victims: tuple[int, ...]) -> dict[str, int]:
    free = {each.uuid: each.usable_bytes for each in world.cards} | dict(world.shared)
    for server in world.residents:
        if server.id in victims:
            for uuid, held in server.held_bytes.items():
                free[uuid] += held
    return free


def test_a_placement_always_fits_and_only_idle_servers_are_evicted(
    decided: list[tuple[PlacementRequest, World, Decision]],
):
    assert {decision.outcome for _, _, decision in decided} >= {Outcome.PLACE, Outcome.EVICT, Outcome.REFUSE}
    for _, world, decision in decided:
        if decision.placement:
            free = free_after(world, decision.evict)
            assert all(size <= free[uuid] for uuid, size in decision.placement.booked_bytes.items())
            stopped = [server for server in world.residents if server.id in decision.evict]
            assert not any(server.is_busy or server.is_pinned for server in stopped)


def test_the_booking_is_the_estimate_for_exactly_that_split(decided: list[tuple[PlacementRequest, World, Decision]]):
    for model, _, decision in decided:
        if placement := decision.placement:
            options = replace(
                model.options,
                devices=len(placement.uuids),
                tensor_split=tuple(map(float, placement.tensor_split)),
                ctx_size=placement.ctx_size,
            )
            assert placement.estimate == estimate_memory(model.shape, options)


def test_one_gpu_is_used_if_it_fits_and_never_more_than_needed(
    decided: list[tuple[PlacementRequest, World, Decision]],
):
    for model, world, decision in decided:
        if decision.outcome is not Outcome.PLACE or decision.placement is None:
            continue
        used = len(decision.placement.uuids)
        for count in range(model.constraints.min_gpus, used):
            for cards in itertools.combinations(world.cards, count):
                alone = decide(
                    replace(model, constraints=replace(model.constraints, max_gpus=count)),
                    replace(world, cards=cards, residents=()),
                )
                assert alone.outcome is not Outcome.PLACE, (decision, alone)
