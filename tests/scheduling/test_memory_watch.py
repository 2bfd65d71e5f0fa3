"""The RAM that servers hold against their bookings: when it is read, and which servers are killed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.placement import CPU
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import ReadMemory, Spawn, Stop, StopReason
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.memory_watch import MIN_EXCESS_BYTES, WATCH_AFTER_USE_SECONDS, WATCH_SECONDS
from app.use_cases.scheduling.pool_state import ServerEnding
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import GIB, Play, a_model, booked, memory

WATCHED = SchedulingLimits(max_excess_memory_bytes=4 * GIB)
BOOKED_GIB = booked(a_model(gib=1)) / GIB


def busy(model_name: str = "a", limits: SchedulingLimits = WATCHED) -> Play:
    """A play with one server that has a request, and whose readings are posted by the test."""
    play = Play(limits, answers_readings=False)
    play.ask(a_model(model_name))
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0), ev.Ready(1, 9001, at=0.0))
    return play


def read(play: Play, at: float, held_gib: dict[int, float], **more: float) -> list[Stop]:
    effects = play.post(ev.MemoryRead(memory(at, held=held_gib, **more), at))
    return [effect for effect in effects if isinstance(effect, Stop)]


def test_memory_is_read_twice_a_second_while_a_server_is_in_use():
    play = busy()
    assert due_at(play.state) == WATCH_SECONDS
    assert play.post(ev.Tick(WATCH_SECONDS)) == [ReadMemory()]
    assert play.post(ev.Tick(WATCH_SECONDS + 0.1)) == [], "that reading is on its way"
    read(play, 0.7, {1: BOOKED_GIB})
    assert due_at(play.state) == 0.7 + WATCH_SECONDS


def test_a_server_is_watched_for_a_while_after_its_last_request():
    """A grammar is built before the request has a slot: the engine goes on with it when the client has disconnected."""
    play = busy()
    play.post(ev.Release(1, at=1.0))
    assert play.post(ev.Tick(1.0)) == [ReadMemory()]
    read(play, WATCH_AFTER_USE_SECONDS, {1: BOOKED_GIB})
    assert due_at(play.state) == WATCH_AFTER_USE_SECONDS + WATCH_SECONDS
    read(play, 1.0 + WATCH_AFTER_USE_SECONDS, {1: BOOKED_GIB})
    assert due_at(play.state) == 1.0 + WATCHED.ttl_seconds


def test_a_request_that_takes_long_is_watched_to_its_end():
    play = busy()
    read(play, 10 * WATCH_AFTER_USE_SECONDS, {1: BOOKED_GIB})
    assert due_at(play.state) == 10 * WATCH_AFTER_USE_SECONDS + WATCH_SECONDS


def test_a_failed_reading_is_repeated_later_not_at_once():
    play = busy()
    play.post(ev.Tick(0.5), ev.MemoryReadFailed("no file descriptor", at=0.6))
    assert due_at(play.state) == 0.6 + WATCH_SECONDS


def test_memory_of_a_gpu_that_is_ram_does_not_count_as_excess_but_no_server_may_use_up_the_machine():
    """Whether a driver counts it as the process's own is not known."""
    play = busy()
    server = play.state.servers[0]
    on_spark = replace(server.placement, uuids=("GPU-s",), unified=("GPU-s",))
    server = replace(server, placement=on_spark, booked={"GPU-s": 8 * GIB, CPU: GIB})
    play.state = replace(play.state, servers=(server,))
    assert read(play, 1.0, {1: 9.0}) == []
    assert read(play, 2.0, {1: 12.9}) == []
    assert len(read(play, 3.0, {1: 13.1})) == 1
    play.state = replace(play.state, servers=(server,), endings={})
    (stop,) = read(play, 4.0, {1: 2.0}, available_gib=0.5)
    assert "only 512 MiB of the machine's RAM were left" in stop.detail


def test_a_server_far_above_its_booking_is_killed_and_its_requests_learn_the_numbers():
    play = busy()
    assert read(play, 1.0, {1: BOOKED_GIB + 3.9}) == []
    (stop,) = read(play, 1.5, {1: 5.5})
    assert (stop.server, stop.why) == (1, StopReason.MEMORY_EXCEEDED)
    assert stop.why.kills and not stop.why.allows_cache_save
    assert play.state.endings == {1: ServerEnding(stop.detail, is_due_to_request=True)}
    assert stop.detail == (
        "a: its llama-server was stopped because it held 5632 MiB of RAM, 1178 MiB were booked, "
        "and scheduling.max_excess_memory is 4096 MiB"
    )
    assert play.state.failures["a"].detail == stop.detail


def test_it_is_killed_once_and_loaded_again_for_those_who_wait():
    play = busy()
    play.ask(a_model(), at=1.0)  # has the second slot
    play.ask(a_model(), at=1.0)  # waits for one
    assert len(read(play, 1.5, {1: 9.0})) == 1
    assert read(play, 1.6, {1: 9.9}) == []
    play.post(ev.Exited(1, "ended by SIGKILL", at=1.7))
    effects = play.post(ev.MemoryRead(memory(1.8), 1.8))
    assert [effect.server.model.name for effect in effects if isinstance(effect, Spawn)] == ["a"]
    play.post(ev.Ready(2, 9002, at=2.0))
    assert "a" not in play.state.failures, "the next load has succeeded"


def test_context_checkpoints_are_not_excess(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.use_cases.placement.request.checkpoint_bytes", lambda shape, options: 8 * GIB)
    play = busy()
    assert read(play, 1.0, {1: BOOKED_GIB + 11.9}) == []
    assert len(read(play, 1.5, {1: BOOKED_GIB + 12.1})) == 1


def test_when_little_is_left_only_the_server_with_the_largest_excess_is_killed():
    play = Play(WATCHED)
    first, second, third = (play.up(a_model(name)) for name in "abc")
    play.answers_readings = False
    held = {first: BOOKED_GIB + 1, second: BOOKED_GIB + 2, third: BOOKED_GIB}
    assert read(play, 1.0, held, available_gib=1.1) == []
    (stop,) = read(play, 1.5, held, available_gib=0.5)
    assert stop.server == second
    assert "only 512 MiB of the machine's RAM were left" in stop.detail
    assert read(play, 1.6, held, available_gib=0.4) == [], "the second one still holds its memory"
    play.post(ev.Exited(second, "", at=1.7))
    assert read(play, 1.65, held, available_gib=0.4) == [], "a reading from before its exit"
    assert [stop.server for stop in read(play, 2.2, held, available_gib=0.4)] == [first]


def test_a_server_close_to_its_booking_is_not_to_blame_for_a_full_machine():
    play = busy()
    held = {1: BOOKED_GIB + MIN_EXCESS_BYTES / GIB}
    assert read(play, 1.0, held, available_gib=0.0) == []


def test_a_loading_server_is_left_to_its_own_report():
    play = Play(WATCHED, answers_readings=False)
    play.ask(a_model())
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0))
    assert read(play, 1.0, {1: 15.0}, available_gib=0.5) == []
    assert play.state.servers[0].state is ServerState.STARTING


def test_a_service_without_the_limit_reads_and_kills_nothing():
    play = busy(limits=replace(WATCHED, max_excess_memory_bytes=None))
    assert read(play, 1.0, {1: 15.9}, available_gib=0.1) == []
    assert due_at(play.state) is None
