"""The ledger: claims of loading servers, memory being released, reserves, and other processes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import CPU, LOAD_QUOTA, UNBOOKED_RAM, GpuLimits
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.releasing import RELEASE_TIMEOUT_SECONDS, ReleasingMemory, memory_to_release
from tests.helpers.builders import GIB, a_model, a_server, memory

NO_RESERVE = GpuLimits(reserve_bytes=0)
STOPPING = ServerState.STOPPING
ENDING = pytest.mark.parametrize("state", [ServerState.DRAINING, STOPPING])


def seen(
    free: float, processes: dict[int, int | None] | None = None, total: float = 24, at: float = 100.0, **more: Any
) -> GpuSnapshot:
    sizes = {"total_bytes": int(total * GIB), "free_bytes": int(free * GIB)}
    return GpuSnapshot(GpuState.OK, at, (Gpu("GPU-a", 0, "card", processes=processes or {}, **sizes, **more),))


def on_gpu(gib: float, pid: int | None = 7, ready_at: float | None = None, **more: Any) -> Server:
    state = ServerState.STARTING if ready_at is None else ServerState.READY
    given: dict[str, Any] = {"pid": pid, "ready_at": ready_at, "state": state, "booked": {"GPU-a": int(gib * GIB)}}
    return a_server(a_model("m"), 0, **{**given, **more})


def in_ram(gib: float, ready_at: float | None = None, **more: Any) -> Server:
    state = ServerState.STARTING if ready_at is None else ServerState.READY
    return a_server(a_model("m"), int(gib * GIB), **{"ready_at": ready_at, "state": state, **more})


def ledger(snapshot: GpuSnapshot, *servers: Server, gpu_limits: GpuLimits = NO_RESERVE, **more: Any) -> Ledger:
    return Ledger(snapshot, memory(at=100.0), servers, gpu_limits, **more)


def usable(snapshot: GpuSnapshot, *servers: Server, gpu_limits: GpuLimits = NO_RESERVE) -> float:
    (card,) = ledger(snapshot, *servers, gpu_limits=gpu_limits).cards()
    return card.usable_bytes / GIB


def ram(available: float, *servers: Server, at: float = 5.0) -> tuple[float, float]:
    """GiB available and GiB not booked, of 16."""
    shared = Ledger(seen(24), memory(at, available, 16), servers, NO_RESERVE).shared_free()
    return shared[CPU] / GIB, shared[UNBOOKED_RAM] / GIB


# --- GPUs --------------------------------------------------------------------------------------------------


def test_memory_a_loading_server_has_yet_to_allocate_is_claimed():
    assert usable(seen(24), on_gpu(10)) == 14
    assert usable(seen(20, {7: 4 * GIB}), on_gpu(10)) == 14, "4 of its 10 GiB are no longer free"
    assert usable(seen(14, {7: 10 * GIB}), on_gpu(10)) == 14
    assert usable(seen(20, {7: None}), on_gpu(10)) == 10, "NVML does not say whose the 4 GiB are"


def test_a_claim_ends_with_the_first_reading_after_it_was_ready():
    assert usable(seen(13, at=100), on_gpu(10, ready_at=100.5)) == 3, "the reading is older"
    assert usable(seen(13, at=101), on_gpu(10, ready_at=100.5)) == 13, "whichever process NVML attributes it to"


def test_reserve_and_max_vram_are_subtracted():
    assert usable(seen(24), gpu_limits=GpuLimits(reserve_bytes=GIB)) == 23
    assert usable(seen(24), gpu_limits=GpuLimits(0, 8 * GIB)) == 8
    assert usable(seen(14), on_gpu(10, ready_at=1), gpu_limits=GpuLimits(0, 16 * GIB)) == 6, (
        "10 of our 16 GiB are booked"
    )
    assert usable(seen(14), on_gpu(10, ready_at=1, state=STOPPING), gpu_limits=GpuLimits(0, 16 * GIB)) == 6
    (card,) = ledger(seen(24), gpu_limits=GpuLimits(GIB, 8 * GIB)).cards()
    assert card.total_bytes == 8 * GIB


def test_a_reserve_used_by_another_process_must_be_released_first():
    assert usable(seen(0.5), gpu_limits=GpuLimits(reserve_bytes=GIB)) == -0.5
    other = on_gpu(4, pid=8, id=2, ready_at=1)
    server = on_gpu(10)
    account = ledger(seen(0.5, {7: 8 * GIB}), server, other, gpu_limits=GpuLimits(reserve_bytes=GIB))
    assert account.available_to(server)["GPU-a"] == 7.5 * GIB


def test_memory_of_other_processes_is_not_usable():
    assert usable(seen(3, {999: 21 * GIB})) == 3


def test_memory_of_a_stopping_server_is_releasing_and_not_free():
    account = ledger(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1, state=STOPPING))
    (card,) = account.cards()
    assert (card.usable_bytes, card.releasing_bytes) == (4 * GIB, 12 * GIB)
    assert account.residents(now=101.0) == ()


def test_memory_of_an_exited_process_is_pending_until_nvml_shows_it_or_it_expires():
    (releasing,) = memory_to_release(on_gpu(10, ready_at=1), (), seen(4, {7: 10 * GIB}), at=100.5)
    assert releasing == ReleasingMemory("GPU-a", 10 * GIB, 4 * GIB, 100.5)
    (card,) = ledger(seen(4, at=100.7), releasing=(releasing,)).cards()
    assert (card.usable_bytes, card.releasing_bytes) == (4 * GIB, 10 * GIB)
    assert releasing.is_pending(seen(11, at=100.7), (), now=101.0), "7 of 10 GiB are free"
    assert not releasing.is_pending(seen(12, at=100.7), (), now=101.0), "three quarters are enough"
    assert releasing.is_pending(seen(14, at=100.4), (), now=101.0), "the reading is older than its exit"
    assert not releasing.is_pending(seen(4, at=110.0), (), now=100.5 + RELEASE_TIMEOUT_SECONDS), (
        "another process took it"
    )


def test_a_server_that_was_loading_releases_what_nvml_showed_for_it():
    (releasing,) = memory_to_release(on_gpu(10), (), seen(4, {7: 3 * GIB}), at=100.5)
    assert (releasing.size_bytes, releasing.unseen_bytes) == (3 * GIB, 7 * GIB)
    (unseen,) = memory_to_release(on_gpu(10), (), seen(24), at=100.5)
    (card,) = ledger(seen(24, at=100.2), releasing=(unseen,)).cards()
    assert (card.usable_bytes, card.releasing_bytes) == (14 * GIB, 10 * GIB), (
        "it may have allocated all of it before its exit"
    )
    (card,) = ledger(seen(21, at=100.6), releasing=(unseen,)).cards()
    assert card.usable_bytes == 21 * GIB


def test_memory_taken_by_another_of_our_servers_counts_as_released():
    """Nine cold models waited for memory that the next one had already taken: five seconds, each time."""
    (releasing,) = memory_to_release(on_gpu(10, ready_at=1), (), seen(4, {7: 10 * GIB}), at=100.5)
    assert not releasing.is_pending(seen(5, {8: 9 * GIB}, at=100.7), (on_gpu(9, pid=8),), now=101.0)
    assert releasing.is_pending(seen(5, {999: 9 * GIB}, at=100.7), (on_gpu(9, pid=8),), now=101.0), "another process's"
    loaded, hidden = on_gpu(9, pid=8, ready_at=100.6), seen(5, at=100.7)
    assert not releasing.is_pending(hidden, (loaded,), now=101.0), "it has all that was booked"
    (with_other,) = memory_to_release(
        on_gpu(10, ready_at=1), (on_gpu(2, pid=8),), seen(4, {7: 10 * GIB, 8: GIB}), at=100.5
    )
    assert with_other.free_before == 5 * GIB


def test_memory_released_by_one_server_is_not_counted_for_another():
    """The second of two servers was stopped before the first one's memory was free. When it was, it was taken for the
    second one's, and the model that waited for both was refused."""
    (first,) = memory_to_release(
        on_gpu(10, ready_at=1), (second := on_gpu(8, pid=8, ready_at=1),), seen(4, {8: 8 * GIB}), 100
    )
    (also,) = memory_to_release(second, (), seen(4, {8: 8 * GIB}, at=100.2), at=100.3, releasing=(first,))
    assert also.is_pending(seen(14, at=100.6), (), now=100.6), "10 of 18 GiB are free: those of the first"
    assert not any(each.is_pending(seen(22, at=101.0), (), now=101.0) for each in (first, also))


def test_a_resident_holds_what_nvml_shows_or_what_was_booked():
    def held(snapshot: GpuSnapshot, server: Server, **gpu_limits: int) -> float:
        (resident,) = ledger(snapshot, server, gpu_limits=GpuLimits(0, **gpu_limits)).residents(now=105.0)
        return resident.held_bytes["GPU-a"] / GIB

    assert held(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1)) == 12
    assert held(seen(4), on_gpu(10, pid=None, ready_at=1)) == 10, "NVML hides it"
    assert held(seen(4), on_gpu(10, pid=None)) == 10, "it holds little so far, and its whole booking is claimed"
    assert held(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1), max_vram_bytes=20 * GIB) == 10


def test_a_resident_has_the_state_of_its_server():
    (idle,) = ledger(seen(4), on_gpu(10, ready_at=1, last_used=100.0)).residents(now=105.0)
    assert (idle.is_busy, idle.is_loading, idle.idle_seconds) == (False, False, 5.0)
    (busy,) = ledger(seen(4), on_gpu(10, ready_at=1, leases=frozenset({3}))).residents(now=105.0)
    (loading,) = ledger(seen(4), on_gpu(10)).residents(now=105.0)
    assert (busy.is_busy, loading.is_loading, loading.is_busy) == (True, True, False)
    (abandoned,) = ledger(seen(4), on_gpu(10, ready_at=1, abandoned_slots=1)).residents(now=105.0)
    assert abandoned.is_busy, "it may still generate for a client that disconnected"


def test_what_is_available_to_a_server_includes_what_it_holds():
    other = on_gpu(4, pid=8, id=2)
    assert ledger(seen(10, {7: 6 * GIB}), on_gpu(8), other).available_to(on_gpu(8))["GPU-a"] == 12 * GIB


def test_claims_follow_the_age_of_a_gpus_own_figures():
    """Its memory could not be read for a moment: a server that became ready since is not in the last figures."""
    assert usable(seen(24, at=101), on_gpu(10, ready_at=100.5)) == 24
    assert usable(seen(24, at=101, memory_at=100), on_gpu(10, ready_at=100.5)) == 14


def test_memory_is_pending_while_its_gpu_shows_figures_from_before_the_exit():
    released = ReleasingMemory("GPU-a", 8 * GIB, free_before=4 * GIB, at=100.5)
    assert not released.is_pending(seen(12, at=101), (), now=101)
    assert released.is_pending(seen(12, at=101, memory_at=100), (), now=101)


def test_a_gpu_with_high_utilization_is_busy():
    (card,) = ledger(seen(24, utilization_percent=95)).cards()
    assert card.is_busy


def test_bookings_never_exceed_the_gpu(seed: int):
    """A simulated GPU: another process holds memory, servers load step by step, readings lag."""
    chance = random.Random(seed)
    for _ in range(300):
        total, now = 24 * GIB, 0.0
        other_process = int(chance.uniform(0, 4) * GIB)
        allocated: dict[int, int] = {}
        bookings: dict[int, Server] = {}
        for pid in range(1, 8):
            now += 1
            for number, each in list(bookings.items()):  # loading continues
                whole = each.booked["GPU-a"]
                allocated[number] = min(whole, allocated[number] + int(chance.random() * whole))
                if allocated[number] == whole and each.ready_at is None:
                    bookings[number] = on_gpu(whole / GIB, number, ready_at=now, id=number)
            free = total - other_process - sum(allocated.values())
            shows = chance.random() < 0.5
            snapshot = seen(free / GIB, dict(allocated) if shows else {}, at=now - chance.choice((0, 0.5)))
            (card,) = ledger(snapshot, *bookings.values()).cards()
            wanted = int(chance.uniform(1, 10) * GIB)
            if wanted <= card.usable_bytes:
                bookings[pid], allocated[pid] = on_gpu(wanted / GIB, pid, id=pid), 0
            assert other_process + sum(each.booked["GPU-a"] for each in bookings.values()) <= total


# --- RAM ---------------------------------------------------------------------------------------------------


def test_an_empty_machine_has_what_the_kernel_reports():
    assert ram(12) == (12, 16)


def test_ram_a_loading_server_will_allocate_is_claimed():
    assert ram(12, in_ram(4)) == (8, 12)


def test_a_reading_from_before_a_server_was_ready_does_not_end_its_claim():
    assert ram(12, in_ram(4, ready_at=6.0))[0] == 8
    assert ram(8, in_ram(4, ready_at=6.0), at=7.0)[0] == 8


def test_pages_of_mapped_files_are_not_free_although_the_kernel_counts_them():
    assert ram(15, in_ram(10, ready_at=1.0)) == (15, 6)


def test_shared_resources_being_released_and_of_an_empty_machine():
    account = Ledger(seen(24), memory(5.0, 6, 16, {1: 9}), (in_ram(10, 1.0, state=STOPPING),), NO_RESERVE, (), 3)
    assert account.shared_releasing() == {CPU: 9 * GIB, UNBOOKED_RAM: 10 * GIB, LOAD_QUOTA: 1}
    assert account.shared_totals() == {CPU: 16 * GIB, UNBOOKED_RAM: 16 * GIB, LOAD_QUOTA: 3}
    assert account.shared_free()[LOAD_QUOTA] == 2


@ENDING
def test_a_server_that_is_ending_keeps_its_booking_until_its_process_has_ended(state: ServerState):
    """The kernel counts pages of a mapped file as available while a stopping server still has them mapped: booked
    again, the same RAM was promised to two models."""
    ending, loading = in_ram(10, ready_at=1.0, state=state), in_ram(4, ready_at=6.0, state=state)
    assert ram(15, ending) == (15, 6)
    assert ram(12, loading) == (8, 12), "what it has yet to allocate is claimed as well"
    account = Ledger(seen(24), memory(5.0, 15, 16), (ending,), NO_RESERVE, (), 3)
    assert account.shared_free()[LOAD_QUOTA] == 2
    released = {CPU: 0, UNBOOKED_RAM: 10 * GIB, LOAD_QUOTA: 1}
    nothing = dict.fromkeys(released, 0)
    is_stopping = state is STOPPING
    assert account.shared_releasing() == (released if is_stopping else nothing)
    assert account.shared_draining() == (nothing if is_stopping else released)


@ENDING
def test_a_server_that_is_ending_keeps_its_booking_on_a_gpu(state: ServerState):
    ending = on_gpu(10, ready_at=1, state=state)
    assert usable(seen(14), ending, gpu_limits=GpuLimits(0, 16 * GIB)) == 6
    (card,) = ledger(seen(14, {7: 10 * GIB}), ending).cards()
    assert (card.releasing_bytes, card.draining_bytes) == ((10 * GIB, 0) if state is STOPPING else (0, 10 * GIB))
    assert usable(seen(14, at=0.5), ending) == 4, "claimed: the reading is older than the load's end"
    assert ledger(seen(14), ending).residents(now=105.0) == (), "it is no candidate for eviction"
