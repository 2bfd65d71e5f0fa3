"""systemd is told that the service works while the scheduler processes events, and not otherwise."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from app.entities.server import Server
from app.errors import WaitTimeout
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import a_model
from tests.pool.test_pool import Case, Process
from workers.pool.watchdog import status_line, watchdog_from

PERIOD = {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}  # 0.2 s, of gunicorn's main process


@pytest.mark.integration
@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified_while_the_scheduler_answers(tmp_path: Path, abstract: bool):
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    answers = threading.Event()
    answers.set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        watchdog = watchdog_from(
            {"NOTIFY_SOCKET": address, **PERIOD}, lambda seconds: answers.is_set(), lambda: "all is well"
        )
        assert watchdog is not None
        watchdog.start()
        systemd.settimeout(20)
        assert [systemd.recv(4096) for _ in range(3)] == [b"WATCHDOG=1\nSTATUS=all is well"] * 3
        answers.clear()
        systemd.settimeout(1)
        with pytest.raises(TimeoutError):
            for _ in range(10):  # what was on its way
                systemd.recv(4096)
        answers.set()
        systemd.settimeout(20)
        assert systemd.recv(4096).startswith(b"WATCHDOG=1")
        watchdog.stop()


@pytest.mark.parametrize(
    "environment", [{}, PERIOD, {"NOTIFY_SOCKET": "/x"}, {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}]
)
def test_without_systemds_variables_there_is_no_watchdog(environment: dict[str, str]):
    assert watchdog_from(environment, lambda seconds: True, lambda: "") is None


def test_a_scheduler_that_is_stuck_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    """Its lock holder never returns from an effect: events stay in the inbox."""
    started, goes_on = threading.Event(), threading.Event()
    case = Case()
    assert case.pool.is_responsive(10)

    def stuck(process: Process, server: Server, post: object) -> None:
        started.set()
        goes_on.wait(60)

    def acquire() -> None:
        with contextlib.suppress(WaitTimeout):  # after this test: the server that was spawned never loads
            case.acquire(a_model())

    monkeypatch.setattr(Process, "__init__", stuck)
    threading.Thread(target=acquire, daemon=True).start()
    assert started.wait(20)
    assert not case.pool.is_responsive(0.1)
    goes_on.set()
    assert case.pool.is_responsive(10)


def test_the_status_counts_servers_and_requests():
    assert status_line(PoolState()) == "0 llama-servers, 0 requests running, 0 waiting"
