"""A GPU that uses the machine's RAM as its memory: one pool, which its models share with those on the CPU.

The machine of most tests is a DGX Spark with 120 GiB, of which 12 are left to the system.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import (
    CPU,
    UNBOOKED_RAM,
    Decision,
    GpuLimits,
    Outcome,
    Placement,
    PlacementConstraints,
    Policy,
)
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.placement import decide
from app.use_cases.placement.releasing import ReleasingMemory
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import world_of
from tests.helpers.builders import GIB, MIB, a_model, a_placement_request, a_server, memory, tiny_shape

S, TOTAL = "GPU-s", 120
DEFAULTS = GpuLimits()


def a_spark(
    free: float = TOTAL, at: float = 100.0, total: float = TOTAL, processes: dict[int, int | None] | None = None
):
    sizes = {"total_bytes": int(total * GIB), "free_bytes": int(free * GIB)}
    gpu = Gpu(S, 0, "NVIDIA GB10", is_unified=True, processes=processes or {}, **sizes)
    return GpuSnapshot(GpuState.OK, at, (gpu,))


def on_spark(gib: float, ready_at: float | None = None, host: float = 0, **more: Any) -> Server:
    """A server that is loading on it, or has loaded."""
    estimate = Estimate((DeviceMemory(int(gib * GIB)),), DeviceMemory(int(host * GIB)), Confidence.EXACT)
    placement = Placement((S,), (1,), 999, 4096, 0, estimate, (0,), ("NVIDIA GB10",), unified=(S,))
    state = ServerState.STARTING if ready_at is None else ServerState.READY
    given: dict[str, Any] = {"pid": 7, "ready_at": ready_at, "state": state, **more}
    return a_server(a_model("m"), 0, **{"placement": placement, "booked": placement.booked_bytes, **given})


def on_cpu(gib: float, ready_at: float | None = 1.0, **more: Any) -> Server:
    return a_server(a_model("c"), int(gib * GIB), **{"id": 2, "ready_at": ready_at, "state": ServerState.READY, **more})


def ledger(snapshot: GpuSnapshot, *servers: Server, available: float | None = None, **more: Any) -> Ledger:
    gpu = snapshot.gpus[0]
    free = gpu.free_bytes / GIB if available is None else available
    held = more.pop("held", None)
    limits = more.pop("limits", DEFAULTS)
    return Ledger(snapshot, memory(snapshot.at, free, gpu.total_bytes / GIB, held), servers, limits, **more)


def free(account: Ledger) -> tuple[float, float]:
    """GiB available for further models, and GiB that are not booked."""
    shared = account.shared_free()
    return shared[CPU] / GIB, shared[UNBOOKED_RAM] / GIB


def a_request(gib: float, host: float = 0, **constraints: Any) -> PlacementRequest:
    """A model that needs so much on one GPU and so much RAM beside, or all of it in RAM."""

    def estimate(options: ModelOptions, _: tuple[str, ...]) -> Estimate:
        on_gpu, in_ram = DeviceMemory(int(gib * GIB)), DeviceMemory(int(host * GIB))
        if options.devices:
            return Estimate((on_gpu,), in_ram, Confidence.EXACT)
        return Estimate((), DeviceMemory(int((gib + host) * GIB)), Confidence.EXACT)

    constraints = PlacementConstraints(**constraints)  # type: ignore[assignment]
    return PlacementRequest(tiny_shape(), ModelOptions(ctx_size=4096), estimate, constraints)  # type: ignore[arg-type]


def decided(account: Ledger, request: PlacementRequest) -> Decision:
    return decide(request, world_of(account, Policy(), now=1000.0))


# --- the pool --------------------------------------------------------------------------------------------


def test_a_tenth_of_a_sparks_ram_is_left_to_the_system():
    assert free(ledger(a_spark())) == (108, 108)
    (card,) = ledger(a_spark()).cards()
    assert (card.is_unified, card.total_bytes, card.usable_bytes) == (True, 108 * GIB, 108 * GIB)
    assert card.reserve_bytes == 12 * GIB


def test_of_a_small_jetsons_ram_two_gib_are_left():
    (card,) = ledger(a_spark(7, total=7.5)).cards()
    assert (card.reserve_bytes, card.usable_bytes) == (2 * GIB, 5 * GIB)


@pytest.mark.parametrize(
    "limits", [GpuLimits(GIB), GpuLimits(reserves={"NVIDIA GB10": GIB}), GpuLimits(reserves={"0": GIB})]
)
def test_a_reserve_in_the_settings_is_taken_as_it_is(limits: GpuLimits):
    assert free(ledger(a_spark(100), limits=limits)) == (99, 119)


def test_max_vram_is_a_limit_of_the_ram_that_all_models_use():
    assert free(ledger(a_spark(100), on_spark(20, ready_at=1), limits=GpuLimits(0, 64 * GIB))) == (100, 44)


def test_a_byte_booked_on_the_gpu_is_a_byte_booked_in_ram():
    assert free(ledger(a_spark(90), on_spark(20, ready_at=1, host=2), on_cpu(10))) == (78, 108 - 20 - 2 - 10)


def test_a_model_on_the_cpu_and_one_on_the_gpu_do_not_get_the_same_ram():
    """19 GiB of RAM: together they had booked 36."""
    jetson = a_spark(19, total=19)
    account = ledger(jetson, on_cpu(9), available=10, held={2: 9})
    assert decided(account, a_request(9)).outcome is not Outcome.PLACE
    account = ledger(a_spark(8, total=19), on_spark(9, ready_at=1))
    assert decided(account, replace(a_request(9), options=ModelOptions(ctx_size=4096, n_gpu_layers=0))).outcome is not (
        Outcome.PLACE
    )


def test_what_a_model_needs_on_the_gpu_and_in_ram_must_fit_together():
    assert decided(ledger(a_spark(50)), a_request(30, host=8)).outcome is Outcome.PLACE
    found = decided(ledger(a_spark(50)), a_request(30, host=8.5))
    assert (found.outcome, found.is_permanent, found.needed_bytes) == (Outcome.REFUSE, False, int(38.5 * GIB))
    assert found.reason == "it needs 39,424 MiB of unified memory; usable: 38,912 MiB"
    assert found.free_bytes == {CPU: 38 * GIB}


def test_a_model_larger_than_the_pool_never_fits():
    found = decided(ledger(a_spark(100)), a_request(105, host=4))
    assert (found.outcome, found.is_permanent) == (Outcome.REFUSE, True)
    assert found.reason == f"it needs {109 * 1024:,} MiB of unified memory; usable at most: {108 * 1024:,} MiB"


def test_the_placement_is_on_the_gpu_and_names_what_is_ram():
    placement = decided(ledger(a_spark()), a_request(30, host=1)).placement
    assert placement is not None
    assert (placement.device, placement.unified, placement.booked_bytes) == ("cuda:0", (S,), {S: 30 * GIB, CPU: GIB})
    assert placement.by_memory(placement.booked_bytes) == {CPU: 31 * GIB}


# --- readings --------------------------------------------------------------------------------------------


def test_memory_a_loading_server_has_yet_to_allocate_is_claimed_once():
    """NVML tells how much it holds by now: on a Spark it does, on a Jetson not."""
    half_loaded = a_spark(100, processes={7: 10 * GIB})
    assert free(ledger(half_loaded, on_spark(30))) == (100 - 20 - 12, 78)
    assert free(ledger(a_spark(100), on_spark(30))) == (100 - 30 - 12, 78)


def test_the_older_of_two_readings_of_ram_does_not_hide_what_the_other_shows():
    newer_gpus = a_spark(90, processes={7: 20 * GIB})
    assert free(ledger(newer_gpus, on_spark(30), available=100))[0] == 90 - 10 - 12
    assert free(ledger(newer_gpus, on_spark(30), available=80))[0] == 80 - 10 - 12


def test_other_processes_use_the_same_ram():
    assert free(ledger(a_spark(50))) == (38, 108)


def test_memory_of_an_exited_server_is_waited_for_before_another_is_evicted():
    released = ReleasingMemory(S, 60 * GIB, free_before=110 * GIB, at=99.0)
    idle = on_cpu(30, last_used=0.0)
    account = ledger(a_spark(35), idle, held={2: 30}, releasing=(released,))
    found = decided(account, a_request(50))
    assert (found.outcome, found.evict) == (Outcome.WAIT, ())
    assert "memory being released" in found.reason


# --- eviction --------------------------------------------------------------------------------------------


def test_an_idle_model_on_the_cpu_is_evicted_for_one_on_the_gpu():
    found = decided(ledger(a_spark(50), on_cpu(60, last_used=0.0), held={2: 60}), a_request(80))
    assert (found.outcome, found.evict) == (Outcome.EVICT, (2,))


def test_an_idle_model_on_the_gpu_is_evicted_for_another_with_all_it_holds():
    snapshot = a_spark(50, processes={7: 50 * GIB})
    found = decided(ledger(snapshot, on_spark(50, ready_at=1, host=10), held={1: 8}), a_request(90, host=5))
    assert (found.outcome, found.evict) == (Outcome.EVICT, (1,))
    (resident,) = ledger(snapshot, on_spark(50, ready_at=1, host=10), held={1: 8}).residents(now=1000)
    assert {what: size / GIB for what, size in resident.held_bytes.items() if what in (CPU, UNBOOKED_RAM, S)} == {
        CPU: 58,
        UNBOOKED_RAM: 60,
    }


def test_a_model_on_the_gpu_may_grow_by_what_the_pool_has_left():
    server = on_spark(30, host=1, pid=7)
    account = ledger(a_spark(80, processes={7: 20 * GIB}), server, held={1: 1})
    # it holds 21, and 80 - 12 are free
    assert account.available_to(server) == {CPU: 89 * GIB}


def test_a_pinned_model_on_the_gpu_takes_ram_for_good():
    world = world_of(ledger(a_spark()), Policy(), now=1000.0)
    pinned = decide(a_request(30, host=1), world).placement
    assert pinned is not None and world.with_pinned(pinned).taken == {CPU: 31 * GIB}


# --- beside usual cards ------------------------------------------------------------------------------------


def beside_a_card(card_free: float, spark_free: float = 100) -> Ledger:
    card = Gpu("GPU-c", 1, "RTX 4090", total_bytes=24 * GIB, free_bytes=int(card_free * GIB), processes={})
    spark = a_spark(spark_free)
    return ledger(replace(spark, gpus=(*spark.gpus, card)))


def test_a_card_with_its_own_memory_comes_first():
    found = decided(beside_a_card(24), a_request(10))
    assert found.placement is not None and found.placement.uuids == ("GPU-c",)
    assert found.placement.unified == ()
    assert decided(beside_a_card(5), a_request(10)).placement.uuids == (S,)  # type: ignore[union-attr]


def test_no_model_is_split_over_a_card_and_unified_memory():
    assert decided(beside_a_card(24, spark_free=40), a_placement_request(40 * GIB)).outcome is Outcome.REFUSE


def test_a_usual_card_keeps_its_usual_reserve():
    cards = {card.uuid: card.reserve_bytes for card in beside_a_card(24).cards()}
    assert cards == {S: 12 * GIB, "GPU-c": 512 * MIB}


# --- at random -------------------------------------------------------------------------------------------


@pytest.mark.seeds(5)
def test_models_never_book_more_than_the_ram(seed: int):
    """Models on the GPU and on the CPU load step by step, others' processes hold RAM, NVML may hide processes."""
    chance = random.Random(seed)
    for _ in range(60):
        others, shows = int(chance.uniform(0, 30) * GIB), chance.random() < 0.5
        servers: dict[int, Server] = {}
        allocated: dict[int, int] = {}
        for number in range(1, 12):
            now = float(number)
            for each in list(servers.values()):
                whole = each.expected_bytes
                allocated[each.id] = min(whole, allocated[each.id] + int(chance.random() * whole))
                if allocated[each.id] == whole and each.ready_at is None:
                    servers[each.id] = replace(each, ready_at=now, state=ServerState.READY)
            available = (TOTAL * GIB - others - sum(allocated.values())) / GIB
            on_gpu = {each.pid or 0: allocated[each.id] for each in servers.values() if S in each.booked}
            held = {each.id: allocated[each.id] / GIB for each in servers.values() if S not in each.booked}
            snapshot = a_spark(available, now, processes=on_gpu if shows else {})  # type: ignore[arg-type]
            account = ledger(snapshot, *servers.values(), held=held)
            request = a_request(chance.uniform(1, 50))
            if chance.random() < 0.3:
                request = replace(request, options=replace(request.options, n_gpu_layers=0))
            found = decided(account, request)
            if found.outcome is Outcome.PLACE and found.placement is not None:
                place, booked = found.placement, found.placement.booked_bytes
                servers[number] = a_server(a_model("m"), 0, id=number, pid=number, placement=place, booked=booked)
                allocated[number] = 0
            assert others + sum(each.expected_bytes for each in servers.values()) <= (TOTAL - 12) * GIB


def test_the_last_reading_of_a_sleeping_gpu_says_nothing_about_ram():
    """A model on the CPU is placed without waking it."""
    assert free(ledger(a_spark(free=10), available=100))[0] == 10 - 12
    assert free(ledger(a_spark(free=10).asleep(), available=100))[0] == 100 - 12
