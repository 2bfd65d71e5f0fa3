"""Servers whose process NVML shows on none of their GPUs."""

from __future__ import annotations

import pytest

from app.entities.server import Server
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, ProbeEngine, StopReason
from app.use_cases.scheduling.unused_gpus import SHOWN_AFTER_SECONDS
from tests.helpers.builders import replace
from tests.helpers.gpu_play import GpuPlay, Hardware
from tests.scheduling.test_schedule import stopped
from tests.scheduling.test_schedule_gpus import play_on

TWO_FIT = Hardware({"GPU-a": 24})


def polled(play: GpuPlay, at: float, *shown: Server) -> list[Effect]:
    """The effects of a reading in which NVML shows just these servers."""
    snapshot = play.hardware.snapshot(play.state.servers, at)
    processes = {1000 + server.id: 4 << 30 for server in shown}
    return play.post(
        ev.GpusPolled(replace(snapshot, gpus=tuple(replace(g, processes=processes) for g in snapshot.gpus)), at)
    )


def with_two_loaded() -> tuple[GpuPlay, Server, Server]:
    play = play_on(TWO_FIT)
    first, second = play.loaded("first"), play.loaded("second", at=1.0)
    return play, first, second


def test_an_idle_server_that_nvml_does_not_show_is_stopped():
    play, first, second = with_two_loaded()
    assert stopped(polled(play, 2.0 + SHOWN_AFTER_SECONDS, first)) == [second.id]
    (stop,) = [e for e in play.effects if getattr(e, "why", None) is StopReason.GPU_UNUSED]
    assert ProbeEngine() in play.effects and stop is not None
    assert "NVML shows its llama-server on none of its GPUs" in play.state.failures["second"].detail
    assert play.state.card_failures == {}, "the first server works on the same card"


def test_a_busy_one_ends_after_its_requests_and_accepts_no_more():
    play, first, second = with_two_loaded()
    play.request("second", at=2.0)
    ticket = next(iter(play.state.server(second.id).leases))
    assert stopped(polled(play, 2.0 + SHOWN_AFTER_SECONDS, first)) == []
    assert play.state.server(second.id).is_terminating
    assert stopped(play.post(ev.Release(ticket, at=10.0))) == [second.id]


def test_a_card_on_which_it_was_alone_is_set_aside():
    play, first, second = with_two_loaded()
    polled(play, 2.0, first, second)
    play.post(ev.Unload(9, first.model, 3.0, 60.0), ev.Exited(first.id, "", at=4.0))
    assert stopped(polled(play, 10.0)) == [second.id]
    assert play.state.gpus.gpus == () and "set aside" in play.state.gpus.problems[0]


def test_nvml_is_believed_only_after_it_has_shown_a_pid():
    """In a container it shows none, or those of the host."""
    play, *_ = with_two_loaded()
    snapshot = play.hardware.snapshot((), 60.0)
    gpus = tuple(replace(gpu, processes={77: 1 << 30}) for gpu in snapshot.gpus)
    fresh = play_on(TWO_FIT)
    fresh.hardware.shows_pids = False
    fresh.loaded("m")
    assert stopped(fresh.post(ev.GpusPolled(replace(snapshot, gpus=gpus), 60.0))) == []


@pytest.mark.parametrize("reported", [{"GPU-a": 4 << 30, "cpu": 0}])
def test_a_server_that_reports_memory_on_its_gpus_uses_them_whatever_nvml_shows(reported: dict[str, int]):
    """A wrapper script's pid is not that of the engine."""
    play, first, second = with_two_loaded()
    play.post(ev.Measured(second.id, reported, at=1.5))
    assert stopped(polled(play, 10.0, first)) == []


def test_a_server_is_given_time_to_be_shown():
    play, first, _ = with_two_loaded()
    assert stopped(polled(play, 0.9 + SHOWN_AFTER_SECONDS, first)) == []


def test_a_reading_without_processes_says_nothing():
    play, first, second = with_two_loaded()
    polled(play, 2.0, first, second)
    snapshot = play.hardware.snapshot(play.state.servers, 10.0)
    gpus = tuple(replace(gpu, processes=None) for gpu in snapshot.gpus)
    assert stopped(play.post(ev.GpusPolled(replace(snapshot, gpus=gpus), 10.0))) == []
