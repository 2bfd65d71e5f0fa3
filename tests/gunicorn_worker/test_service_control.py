"""What a second stop signal does where the process can no longer start a thread."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from workers.gunicorn_worker.signals import ServiceControl
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
