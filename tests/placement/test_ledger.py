"""The ledger: claims of loading servers, memory on its way back, what is held back, and strangers."""

from __future__ import annotations

import random
from typing import Any

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import CPU, LOAD_QUOTA, UNBOOKED_RAM, GpuLimits
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import RELEASE_TIMEOUT_SECONDS, Ledger, ReleasingMemory, memory_to_release
from tests.helpers.builders import GIB, a_model, a_server, memory

NOTHING_HELD_BACK = GpuLimits(reserve_bytes=0)
LEAVING = ServerState.STOPPING


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


def ledger(snapshot: GpuSnapshot, *servers: Server, gpu_limits: GpuLimits = NOTHING_HELD_BACK, **more: Any) -> Ledger:
    return Ledger(snapshot, memory(at=100.0), servers, gpu_limits, **more)


def usable(snapshot: GpuSnapshot, *servers: Server, gpu_limits: GpuLimits = NOTHING_HELD_BACK) -> float:
    (card,) = ledger(snapshot, *servers, gpu_limits=gpu_limits).cards()
    return card.usable_bytes / GIB


def ram(available: float, *servers: Server, at: float = 5.0) -> tuple[float, float]:
    """Available, and not promised; of 16 GiB."""
    shared = Ledger(seen(24), memory(at, available, 16), servers, NOTHING_HELD_BACK).shared_free()
    return shared[CPU] / GIB, shared[UNBOOKED_RAM] / GIB


# --- GPUs --------------------------------------------------------------------------------------------------


def test_what_a_loading_server_has_yet_to_take_is_set_aside():
    assert usable(seen(24), on_gpu(10)) == 14
    assert usable(seen(20, {7: 4 * GIB}), on_gpu(10)) == 14, "4 of its 10 are not free any more"
    assert usable(seen(14, {7: 10 * GIB}), on_gpu(10)) == 14
    assert usable(seen(20, {7: None}), on_gpu(10)) == 10, "nobody says whose the 4 are"


def test_a_claim_ends_with_the_first_reading_after_it_was_ready():
    assert usable(seen(13, at=100), on_gpu(10, ready_at=100.5)) == 3, "the reading is older"
    assert usable(seen(13, at=101), on_gpu(10, ready_at=100.5)) == 13, "whatever NVML attributes to whom"


def test_reserve_and_max_vram_are_held_back():
    assert usable(seen(24), gpu_limits=GpuLimits(reserve_bytes=GIB)) == 23
    assert usable(seen(24), gpu_limits=GpuLimits(0, 8 * GIB)) == 8
    assert usable(seen(14), on_gpu(10, ready_at=1), gpu_limits=GpuLimits(0, 16 * GIB)) == 6, (
        "of 16 that are ours 10 are booked"
    )
    assert usable(seen(14), on_gpu(10, ready_at=1, state=LEAVING), gpu_limits=GpuLimits(0, 16 * GIB)) == 6
    (card,) = ledger(seen(24), gpu_limits=GpuLimits(GIB, 8 * GIB)).cards()
    assert card.total_bytes == 8 * GIB


def test_what_a_stranger_has_of_the_reserve_has_to_come_back_first():
    assert usable(seen(0.5), gpu_limits=GpuLimits(reserve_bytes=GIB)) == -0.5
    other = on_gpu(4, pid=8, id=2, ready_at=1)
    server = on_gpu(10)
    account = ledger(seen(0.5, {7: 8 * GIB}), server, other, gpu_limits=GpuLimits(reserve_bytes=GIB))
    assert account.available_to(server)["GPU-a"] == 7.5 * GIB


def test_strangers_hold_what_is_not_free():
    assert usable(seen(3, {999: 21 * GIB})) == 3


def test_what_is_on_its_way_back_is_said_and_is_not_free():
    account = ledger(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1, state=LEAVING))
    (card,) = account.cards()
    assert (card.usable_bytes, card.releasing_bytes) == (4 * GIB, 12 * GIB)
    assert account.residents(now=101.0) == ()


def test_what_a_process_that_has_ended_held_is_on_its_way_until_nvml_shows_it_or_too_long():
    (releasing,) = memory_to_release(on_gpu(10, ready_at=1), (), seen(4, {7: 10 * GIB}), at=100.5)
    assert releasing == ReleasingMemory("GPU-a", 10 * GIB, 4 * GIB, 100.5)
    (card,) = ledger(seen(4, at=100.7), releasing=(releasing,)).cards()
    assert (card.usable_bytes, card.releasing_bytes) == (4 * GIB, 10 * GIB)
    assert releasing.is_pending(seen(11, at=100.7), (), now=101.0), "7 of 10 GiB are back"
    assert not releasing.is_pending(seen(12, at=100.7), (), now=101.0), "three quarters are enough"
    assert releasing.is_pending(seen(14, at=100.4), (), now=101.0), "the reading is older than its end"
    assert not releasing.is_pending(seen(4, at=110.0), (), now=100.5 + RELEASE_TIMEOUT_SECONDS), "somebody else took it"


def test_one_that_had_not_loaded_gives_back_what_nvml_showed_for_it():
    (releasing,) = memory_to_release(on_gpu(10), (), seen(4, {7: 3 * GIB}), at=100.5)
    assert (releasing.size_bytes, releasing.unseen_bytes) == (3 * GIB, 7 * GIB)
    (unseen,) = memory_to_release(on_gpu(10), (), seen(24), at=100.5)
    (card,) = ledger(seen(24, at=100.2), releasing=(unseen,)).cards()
    assert (card.usable_bytes, card.releasing_bytes) == (14 * GIB, 10 * GIB), "it may have had all of it by its end"
    (card,) = ledger(seen(21, at=100.6), releasing=(unseen,)).cards()
    assert card.usable_bytes == 21 * GIB


def test_what_another_server_of_ours_takes_has_come_back_all_the_same():
    """Nine cold models were queued behind memory that the next one had long taken: five seconds, and again."""
    (releasing,) = memory_to_release(on_gpu(10, ready_at=1), (), seen(4, {7: 10 * GIB}), at=100.5)
    assert not releasing.is_pending(seen(5, {8: 9 * GIB}, at=100.7), (on_gpu(9, pid=8),), now=101.0)
    assert releasing.is_pending(seen(5, {999: 9 * GIB}, at=100.7), (on_gpu(9, pid=8),), now=101.0), "a stranger's"
    loaded, hidden = on_gpu(9, pid=8, ready_at=100.6), seen(5, at=100.7)
    assert not releasing.is_pending(hidden, (loaded,), now=101.0), "it has all that was booked"
    (beside,) = memory_to_release(on_gpu(10, ready_at=1), (on_gpu(2, pid=8),), seen(4, {7: 10 * GIB, 8: GIB}), at=100.5)
    assert beside.free_before == 5 * GIB


def test_what_one_server_gives_back_is_not_taken_for_what_another_does():
    """The second of two was told to end before the memory of the first was back. That came, was taken for its own, and
    the model that waited for both was refused."""
    (first,) = memory_to_release(
        on_gpu(10, ready_at=1), (second := on_gpu(8, pid=8, ready_at=1),), seen(4, {8: 8 * GIB}), 100
    )
    (also,) = memory_to_release(second, (), seen(4, {8: 8 * GIB}, at=100.2), at=100.3, releasing=(first,))
    assert also.is_pending(seen(14, at=100.6), (), now=100.6), "10 of 18 GiB are back: those of the first"
    assert not any(each.is_pending(seen(22, at=101.0), (), now=101.0) for each in (first, also))


def test_what_comes_back_is_what_nvml_shows_or_what_was_booked():
    def back(snapshot: GpuSnapshot, server: Server, **gpu_limits: int) -> float:
        (resident,) = ledger(snapshot, server, gpu_limits=GpuLimits(0, **gpu_limits)).residents(now=105.0)
        return resident.held_bytes["GPU-a"] / GIB

    assert back(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1)) == 12
    assert back(seen(4), on_gpu(10, pid=None, ready_at=1)) == 10, "it is hidden"
    assert back(seen(4), on_gpu(10, pid=None)) == 10, "it holds little yet, and all is set aside for it"
    assert back(seen(4, {7: 12 * GIB}), on_gpu(10, ready_at=1), max_vram_bytes=20 * GIB) == 10


def test_a_resident_is_as_its_server_is():
    (idle,) = ledger(seen(4), on_gpu(10, ready_at=1, last_used=100.0)).residents(now=105.0)
    assert (idle.is_busy, idle.is_loading, idle.idle_seconds) == (False, False, 5.0)
    (busy,) = ledger(seen(4), on_gpu(10, ready_at=1, leases=frozenset({3}))).residents(now=105.0)
    (loading,) = ledger(seen(4), on_gpu(10)).residents(now=105.0)
    assert (busy.is_busy, loading.is_loading, loading.is_busy) == (True, True, False)


def test_room_beside_others_counts_what_a_server_has_already():
    other = on_gpu(4, pid=8, id=2)
    assert ledger(seen(10, {7: 6 * GIB}), on_gpu(8), other).available_to(on_gpu(8))["GPU-a"] == 12 * GIB


def test_a_gpu_that_does_not_tell_its_memory_is_none_to_book_on():
    assert ledger(GpuSnapshot(GpuState.OK, 1.0, (Gpu("GPU-a", 0, "card"),))).cards() == ()


def test_a_gpu_that_computes_is_busy():
    (card,) = ledger(seen(24, utilization_percent=95)).cards()
    assert card.is_busy


def test_what_is_lent_never_exceeds_what_there_is(seed: int):
    """A card of its own truth: strangers come and go, servers load byte by byte, readings lag."""
    chance = random.Random(seed)
    for _ in range(300):
        total, now = 24 * GIB, 0.0
        stranger = int(chance.uniform(0, 4) * GIB)
        taken: dict[int, int] = {}
        bookings: dict[int, Server] = {}
        for pid in range(1, 8):
            now += 1
            for number, each in list(bookings.items()):  # loading goes on
                whole = each.booked["GPU-a"]
                taken[number] = min(whole, taken[number] + int(chance.random() * whole))
                if taken[number] == whole and each.ready_at is None:
                    bookings[number] = on_gpu(whole / GIB, number, ready_at=now, id=number)
            free = total - stranger - sum(taken.values())
            shows = chance.random() < 0.5
            snapshot = seen(free / GIB, dict(taken) if shows else {}, at=now - chance.choice((0, 0.5)))
            (card,) = ledger(snapshot, *bookings.values()).cards()
            wanted = int(chance.uniform(1, 10) * GIB)
            if wanted <= card.usable_bytes:
                bookings[pid], taken[pid] = on_gpu(wanted / GIB, pid, id=pid), 0
            assert stranger + sum(each.booked["GPU-a"] for each in bookings.values()) <= total


# --- RAM ---------------------------------------------------------------------------------------------------


def test_an_empty_machine_has_what_the_kernel_says():
    assert ram(12) == (12, 16)


def test_what_a_loading_server_will_take_of_ram_is_set_aside():
    assert ram(12, in_ram(4)) == (8, 12)


def test_a_reading_from_before_a_server_was_ready_lacks_its_bytes():
    assert ram(12, in_ram(4, ready_at=6.0))[0] == 8
    assert ram(8, in_ram(4, ready_at=6.0), at=7.0)[0] == 8


def test_pages_of_a_mapped_file_are_not_free_although_the_kernel_says_so():
    assert ram(15, in_ram(10, ready_at=1.0)) == (15, 6)


def test_what_leaves_ram_and_what_an_empty_machine_has():
    account = Ledger(seen(24), memory(5.0, 6, 16, {1: 9}), (in_ram(10, 1.0, state=LEAVING),), NOTHING_HELD_BACK, (), 3)
    assert account.shared_releasing() == {CPU: 9 * GIB, UNBOOKED_RAM: 10 * GIB, LOAD_QUOTA: 1}
    assert account.shared_totals() == {CPU: 16 * GIB, UNBOOKED_RAM: 16 * GIB, LOAD_QUOTA: 3}
    assert account.shared_free()[LOAD_QUOTA] == 2
