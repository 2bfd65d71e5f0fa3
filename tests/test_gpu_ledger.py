"""The GPUs' ledger: claims of loading servers, memory on its way back, what is held back, and strangers."""

from __future__ import annotations

import random

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import Rules
from app.use_cases.gpu_ledger import Booking, cards, residents

GIB = 1024**3
NOTHING_HELD_BACK = Rules(reserve_bytes=0)


def seen(
    free: float, processes: dict[int, int | None] | None = None, total: float = 24, at: float = 100.0
) -> GpuSnapshot:
    gpu = Gpu("GPU-a", 0, "card", total_bytes=int(total * GIB), free_bytes=int(free * GIB), processes=processes or {})
    return GpuSnapshot(GpuState.OK, at, (gpu,))


def booking(gib: float, pid: int | None = 7, **more: object) -> Booking:
    return Booking(1, "m", {"GPU-a": int(gib * GIB)}, pid, **more)


def usable(snapshot: GpuSnapshot, *bookings: Booking, rules: Rules = NOTHING_HELD_BACK) -> float:
    (card,) = cards(snapshot, bookings, rules)
    return card.usable_bytes / GIB


def test_what_a_loading_server_has_yet_to_take_is_set_aside():
    assert usable(seen(24), booking(10)) == 14
    assert usable(seen(20, {7: 4 * GIB}), booking(10)) == 14, "4 of its 10 are not free any more"
    assert usable(seen(14, {7: 10 * GIB}), booking(10)) == 14
    assert usable(seen(20, {7: None}), booking(10)) == 10, "nobody says whose the 4 are"


def test_a_claim_ends_with_the_first_reading_after_it_was_ready():
    assert usable(seen(13, at=100), booking(10, ready_at=100.5)) == 3, "the reading is older"
    assert usable(seen(13, at=101), booking(10, ready_at=100.5)) == 13, "whatever NVML attributes to whom"


def test_reserve_and_max_vram_are_held_back():
    assert usable(seen(24), rules=Rules(reserve_bytes=GIB)) == 23
    assert usable(seen(24), rules=Rules(0, 8 * GIB)) == 8
    assert usable(seen(14), booking(10, ready_at=1), rules=Rules(0, 16 * GIB)) == 6, "of 16 that are ours 10 are booked"
    assert usable(seen(14), booking(10, ready_at=1, is_leaving=True), rules=Rules(0, 16 * GIB)) == 6
    (card,) = cards(seen(24), (), Rules(GIB, 8 * GIB))
    assert card.total_bytes == 8 * GIB


def test_strangers_hold_what_is_not_free():
    assert usable(seen(3, {999: 21 * GIB})) == 3


def test_what_is_on_its_way_back_is_said_and_is_not_free():
    (card,) = cards(seen(4, {7: 12 * GIB}), (booking(10, ready_at=1, is_leaving=True),), NOTHING_HELD_BACK)
    assert (card.usable_bytes, card.leaving_bytes) == (4 * GIB, 12 * GIB)
    assert residents(seen(4), (booking(10, ready_at=1, is_leaving=True),)) == ()


def test_what_comes_back_is_what_nvml_shows_or_what_was_booked():
    (shown,) = residents(seen(4, {7: 12 * GIB}), (booking(10, ready_at=1, idle_seconds=5),))
    assert (shown.held_bytes, shown.is_busy, shown.idle_seconds) == ({"GPU-a": 12 * GIB}, False, 5)
    (hidden,) = residents(seen(4), (booking(10, pid=None, ready_at=1),))
    assert hidden.held_bytes == {"GPU-a": 10 * GIB}
    (loading,) = residents(seen(4), (booking(10, pid=None),))
    assert (loading.held_bytes, loading.is_busy) == ({"GPU-a": 0}, True)


def test_a_gpu_that_does_not_tell_its_memory_is_none_to_book_on():
    assert cards(GpuSnapshot(GpuState.OK, 1.0, (Gpu("GPU-a", 0, "card"),)), (), Rules()) == ()


def test_a_gpu_that_computes_is_busy():
    gpu = Gpu("GPU-a", 0, "card", total_bytes=GIB, free_bytes=GIB, utilization_percent=95)
    (card,) = cards(GpuSnapshot(GpuState.OK, 1.0, (gpu,)), (), Rules())
    assert card.is_busy


def test_what_is_lent_never_exceeds_what_there_is():
    """A card of its own truth: strangers come and go, servers load byte by byte, readings lag."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        total, now = 24 * GIB, 0.0
        stranger = int(chance.uniform(0, 4) * GIB)
        taken: dict[int, int] = {}
        bookings: dict[int, Booking] = {}
        for pid in range(1, 8):
            now += 1
            for number, each in list(bookings.items()):  # loading goes on
                whole = each.booked_bytes["GPU-a"]
                taken[number] = min(whole, taken[number] + int(chance.random() * whole))
                if taken[number] == whole and each.ready_at is None:
                    bookings[number] = Booking(number, "m", each.booked_bytes, number, ready_at=now)
            free = total - stranger - sum(taken.values())
            shows = chance.random() < 0.5
            snapshot = seen(free / GIB, dict(taken) if shows else {}, at=now - chance.choice((0, 0.5)))
            (card,) = cards(snapshot, bookings.values(), NOTHING_HELD_BACK)
            wanted = int(chance.uniform(1, 10) * GIB)
            if wanted <= card.usable_bytes:
                bookings[pid], taken[pid] = Booking(pid, "m", {"GPU-a": wanted}, pid), 0
            assert stranger + sum(each.booked_bytes["GPU-a"] for each in bookings.values()) <= total
