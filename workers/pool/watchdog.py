"""Watchdog: tells systemd that the service works, as long as the scheduler processes events.

A process that answers /livez may still have a stuck scheduler, for which every request would wait. systemd restarts a
unit with WatchdogSec= that has not sent WATCHDOG=1 for so long (sd_notify(3)).
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping

from app.use_cases.scheduling.pool_state import PoolState

log = logging.getLogger(__name__)

FEEDS_PER_PERIOD = 4


class Watchdog:
    """Sends to `address` several times in `period_seconds`. `is_responsive` asks the scheduler and waits for its answer
    for so many seconds; `status` is one line for `systemctl status`."""

    def __init__(
        self, address: str, period_seconds: float, is_responsive: Callable[[float], bool], status: Callable[[], str]
    ) -> None:
        self._address = address
        self._pause_seconds = period_seconds / FEEDS_PER_PERIOD
        self._is_responsive = is_responsive
        self._status = status
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._is_responsive(self._pause_seconds):
                self._notify(f"WATCHDOG=1\nSTATUS={self._status()}")
            else:
                log.error("the scheduler has not answered for %g s; systemd is not notified", self._pause_seconds)
            self._stopped.wait(self._pause_seconds)

    def _notify(self, message: str) -> None:
        # systemd's end may be full for a moment; a leading @ means Linux's abstract namespace
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.setblocking(False)
            notified.sendto(message.encode(), address)


def status_line(pool: PoolState) -> str:
    """For example "2 llama-servers, 3 requests running, 1 waiting"."""
    running = sum(len(server.leases) for server in pool.servers)
    return f"{len(pool.servers)} llama-servers, {running} requests running, {len(pool.waiting)} waiting"


def watchdog_from(
    environment: Mapping[str, str], is_responsive: Callable[[float], bool], status: Callable[[], str]
) -> Watchdog | None:
    """The watchdog that systemd's variables ask for; None if they do not.

    WATCHDOG_PID is that of gunicorn's main process, our parent, which has no scheduler: the unit needs
    NotifyAccess=all.
    """
    address, microseconds = environment.get("NOTIFY_SOCKET", ""), environment.get("WATCHDOG_USEC", "")
    if not address or not re.fullmatch(r"[1-9][0-9]{0,18}", microseconds):
        return None
    return Watchdog(address, int(microseconds) / 1e6, is_responsive, status)
