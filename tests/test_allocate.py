"""The ledger, with its arithmetic shown."""

from __future__ import annotations

from app.entities.server import Server, ServerState
from app.use_cases.allocate import NoFit, place, usable_bytes
from tests.builders import GIB, a_model, memory, replace


def a_server(gib: float, state: ServerState = ServerState.READY, ready_at: float | None = 1.0) -> Server:
    server = Server(1, a_model(), int(gib * GIB), last_used=0.0, progress_at=0.0)
    return replace(server, state=state, ready_at=ready_at)


def test_an_empty_machine_has_what_the_kernel_says():
    assert usable_bytes(memory(at=5.0, available_gib=12, total_gib=16), []) == 12 * GIB


def test_what_a_loading_server_will_take_is_set_aside():
    loading = a_server(4, ServerState.STARTING, ready_at=None)
    # 12 GiB available, 4 of them spoken for
    assert usable_bytes(memory(at=5.0, available_gib=12, total_gib=16), [loading]) == 8 * GIB


def test_a_reading_from_before_a_server_was_ready_lacks_its_bytes():
    ready = a_server(4, ready_at=6.0)
    assert usable_bytes(memory(at=5.0, available_gib=12, total_gib=16), [ready]) == 8 * GIB
    assert usable_bytes(memory(at=7.0, available_gib=8, total_gib=16), [ready]) == 8 * GIB


def test_pages_of_a_mapped_file_are_not_free_although_the_kernel_says_so():
    mapped = a_server(10, ready_at=1.0)
    # 15 GiB "available", but 16 in all and 10 of them booked
    assert usable_bytes(memory(at=5.0, available_gib=15, total_gib=16), [mapped]) == 6 * GIB


def test_bytes_on_their_way_back_are_not_free():
    leaving = a_server(10, ServerState.STOPPING)
    assert usable_bytes(memory(at=5.0, available_gib=15, total_gib=16), [leaving]) == 6 * GIB


def test_what_does_not_fit_says_by_how_much_and_whether_it_ever_could():
    reading = memory(at=5.0, available_gib=4, total_gib=16)
    assert place(4 * GIB, reading, []) is None
    assert place(5 * GIB, reading, []) == NoFit(5 * GIB, 4 * GIB, 16 * GIB)
    assert place(5 * GIB, reading, []).ever
    assert not place(17 * GIB, reading, []).ever
