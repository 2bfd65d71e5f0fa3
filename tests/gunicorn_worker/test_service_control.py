"""What a second stop signal does where the process can no longer start a thread."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any

import pytest

from tests.helpers.service import wait_for
from workers.gunicorn_worker.signals import RELOAD_SECONDS, ServiceControl
from workers.gunicorn_worker.timeouts import WorkerTimeouts

pytestmark = pytest.mark.gunicorn


class Killed:
    count = 0

    def kill(self) -> None:
        self.count += 1


def test_a_second_stop_signal_kills_and_exits_even_without_a_new_thread(monkeypatch: pytest.MonkeyPatch):
    """The timer that bounds the kill is a thread: where none could be started, the kill and the exit were skipped."""

    def no_thread(timer: Any) -> None:
        raise RuntimeError("can't start new thread")

    statuses: list[int] = []
    monkeypatch.setattr(threading.Timer, "start", no_thread)
    monkeypatch.setattr(os, "_exit", statuses.append)
    loop: Any = None
    control = ServiceControl(loop, WorkerTimeouts())
    service: Any = Killed()
    control.service = service
    control._exit_now()
    assert (service.count, statuses) == (1, [1])


def test_reload_signals_during_the_start_are_one_reload_after_it():
    """The start may have read the configuration before the signal: it was ignored, and the old one stayed in force."""

    class Reloading:
        count = 0

        def reload(self) -> None:
            self.count += 1

    loop: Any = None
    control, service = ServiceControl(loop, WorkerTimeouts()), Reloading()
    for _ in range(5):
        control._begin_reload()
    assert service.count == 0
    started: Any = service
    control.serve(started)
    wait_for(lambda: service.count == 1 and not control._is_reload_due, 20)
    control._begin_reload()
    wait_for(lambda: service.count == 2, 20)


def test_a_flood_of_reload_signals_is_one_reload_a_second():
    """A loop that sends HUP kept the disk busy: each reload reads every model's header."""

    class Reloading:
        def __init__(self) -> None:
            self.began_at: list[float] = []

        def reload(self) -> None:
            self.began_at.append(time.monotonic())

    loop: Any = None
    control, service = ServiceControl(loop, WorkerTimeouts()), Reloading()
    control.service = service  # type: ignore[assignment]
    control._has_service.set()
    while len(service.began_at) < 3:
        control._begin_reload()
        time.sleep(0.001)
    pauses = [later - earlier for earlier, later in itertools.pairwise(service.began_at)]
    assert min(pauses) > 0.9 * RELOAD_SECONDS
    wait_for(lambda: not control._is_reload_due, 20)


def test_a_reload_that_found_no_thread_does_not_end_all_later_ones(monkeypatch: pytest.MonkeyPatch):
    def no_thread(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    loop: Any = None
    control = ServiceControl(loop, WorkerTimeouts())
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            control._begin_reload()
