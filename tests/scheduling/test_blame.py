"""Which ends of a server make suspects of the requests that it was working on, and what lifts that again."""

from __future__ import annotations

from dataclasses import replace
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGKILL, SIGSEGV, SIGTERM

import pytest

from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import CheckServer
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.memory_watch import MIN_EXCESS_BYTES
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import GIB, Play, a_model, a_placement_request, booked, memory

MODEL = a_model()
LIMITS = SchedulingLimits(max_excess_memory_bytes=4 * GIB)
BOOKED_GIB = booked(MODEL) / GIB
GROWN_GIB = BOOKED_GIB + MIN_EXCESS_BYTES / GIB + 0.1
REQUEST = "hash of the request"


def running(held_gib: float = BOOKED_GIB, available_gib: float = 10.0, checks_liveness: bool = False) -> Play:
    """A server with one request, and a reading of the memory that it holds."""
    play = Play(LIMITS, answers_readings=False, checks_liveness=checks_liveness)
    send(play, at=0.0)
    play.post(ev.MemoryRead(memory(at=0.0), at=0.0), ev.Ready(1, 9001, at=0.0))
    play.post(ev.MemoryRead(memory(1.0, available_gib, held={1: held_gib}), at=1.0))
    return play


def send(play: Play, at: float) -> list[object]:
    play._ticket += 1
    needed = a_placement_request(booked(MODEL), MODEL.constraints)
    return list(play.post(ev.Acquire(play._ticket, MODEL, at, at + 300, needed, request_hash=REQUEST)))


def crash(play: Play, at: float, exit_code: int | None = -SIGSEGV) -> None:
    play.post(ev.Exited(play.state.servers[-1].id, "it ended", at, exit_code=exit_code))


@pytest.mark.parametrize("code", [-SIGSEGV, -SIGABRT, -SIGILL, -SIGFPE, -SIGBUS, 1, 255, 128 + SIGSEGV])
def test_a_crash_makes_suspects(code: int):
    play = running()
    crash(play, 2.0, code)
    assert set(play.state.suspects) == {REQUEST}


@pytest.mark.parametrize("code", [0, -SIGTERM, -SIGINT, -SIGKILL, 128 + SIGTERM, 128 + SIGKILL, None])
def test_what_an_operator_or_the_kernel_ends_makes_none(code: int | None):
    play = running()
    crash(play, 2.0, code)
    assert not play.state.suspects and not play.state.backoffs and not play.state.servers


def test_the_kernels_sigkill_of_a_server_that_has_grown_makes_suspects():
    play = running(GROWN_GIB)
    crash(play, 2.0, -SIGKILL)
    assert play.state.suspects


@pytest.mark.parametrize(("held_gib", "available_gib"), [(BOOKED_GIB + 5, 10.0), (GROWN_GIB, 0.5)])
def test_a_server_killed_for_its_growth_makes_suspects(held_gib: float, available_gib: float):
    play = running(held_gib, available_gib)
    crash(play, 2.0, -SIGKILL)
    assert play.state.suspects


def test_a_server_killed_on_a_full_machine_for_its_checkpoints_makes_none(monkeypatch: pytest.MonkeyPatch):
    """It is the largest, but by what engines keep by design; somebody else has used up the machine's RAM."""
    monkeypatch.setattr("app.use_cases.placement.request.checkpoint_bytes", lambda shape, options: 2 * GIB)
    play = running(GROWN_GIB, available_gib=0.5)
    assert 1 in play.state.endings, "it was killed"
    crash(play, 2.0, -SIGKILL)
    assert not play.state.suspects


def test_a_hang_makes_none():
    play = running(checks_liveness=True)
    while (at := due_at(play.state)) is not None and 1 not in play.state.endings:
        for effect in play.post(ev.Tick(at)):
            if isinstance(effect, CheckServer):
                play.post(ev.ServerChecked(effect.server, None, at, at + 0.5, is_listening=False))
    crash(play, 100.0, -SIGKILL)
    assert not play.state.suspects


@pytest.mark.parametrize("code", [0, -SIGTERM])
def test_a_suspect_that_ran_alone_is_not_refused_for_an_operators_kill(code: int):
    play = running()
    crash(play, 2.0)
    send(play, at=3.0)
    play.post(ev.MemoryRead(memory(at=3.0), at=3.0), ev.Ready(2, 9001, at=3.0))
    crash(play, 4.0, code)
    assert [suspect.is_refused for suspect in play.state.suspects.values()] == [False]


def test_a_request_that_its_server_had_not_read_is_no_suspect():
    play = running()
    crash(play, 2.0)
    play.post(ev.Release(1, 2.1, ev.Ending.NOT_SENT))
    assert not play.state.suspects


# --- what lifts a suspicion ---------------------------------------------------------------------------------------


def refused() -> Play:
    play = running()
    crash(play, 2.0)
    send(play, at=3.0)
    play.post(ev.MemoryRead(memory(at=3.0), at=3.0), ev.Ready(2, 9001, at=3.0))
    crash(play, 4.0)
    assert [suspect.is_refused for suspect in play.state.suspects.values()] == [True]
    return play


def test_an_order_to_load_the_model_lifts_what_is_held_against_its_requests():
    play = refused()
    other = a_model("other")
    play.post(ev.Load(100, other, 5.0, 300.0, a_placement_request(booked(other))))
    assert play.state.suspects
    play.post(ev.Load(101, MODEL, 6.0, 300.0, a_placement_request(booked(MODEL))))
    assert not play.state.suspects


def test_a_reload_lifts_it_for_models_that_have_changed():
    play = refused()
    play.post(ev.Reconfigured(LIMITS, {"a": replace(MODEL, priority=3)}, {}, at=5.0))
    assert play.state.suspects
    play.post(ev.Reconfigured(LIMITS, {"a": a_model(slots=3)}, {}, at=6.0))
    assert not play.state.suspects


def test_a_new_file_lifts_it_without_a_reload():
    play = refused()
    new = replace(MODEL, created=MODEL.created + 1)
    command = ev.Acquire(50, new, 5.0, 300.0, a_placement_request(booked(new)), request_hash=REQUEST)
    play.post(command, ev.MemoryRead(memory(at=5.0), at=5.0))
    assert [server.model for server in play.state.servers] == [new], "it is not refused"
