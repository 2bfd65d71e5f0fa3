"""When the files are scanned: one scan at a time, on request of an administrator, or caused by a request for a model.

Neither kind delays look-ups: the catalogue's names are replaced when a scan has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SCAN_WAIT_SECONDS = 10.0  # for a scan that another thread has started
REQUEST_WAIT_SECONDS = 0.5  # of requests for a scan that they cause
MAX_WAITING_REQUESTS = 4  # each keeps a thread from other requests; more are answered from what is known
REST_SECONDS = 5.0  # between scans that requests cause ...
REST_FACTOR = 20  # ... and this many times as long as the last one took


class Scans:
    """Runs `scan`. Thread-safe."""

    def __init__(self, scan: Callable[[], None]) -> None:
        self._scan = scan
        self._state = threading.Condition()  # guards the three below; not held while files are read
        self._started = self._finished = 0  # counts; one scan runs at a time
        self._is_scanning = False
        self._requested = threading.Lock()  # guards the two below
        self._next_at = 0.0  # monotonic seconds: when a request may cause a scan
        self._ended = threading.Event()  # the last scan that a request has caused
        self._ended.set()
        self._waiting = threading.BoundedSemaphore(MAX_WAITING_REQUESTS)

    def run(self) -> None:
        """Scan, or wait for a scan that starts after this call: a running one may have missed a change.

        Concurrent callers share one. The wait is limited, in case a disk hangs.
        """
        with self._state:
            number = self._started + 1
            self._state.wait_for(lambda: self._finished >= number or not self._is_scanning, SCAN_WAIT_SECONDS)
            if self._finished >= number:
                return
            if self._is_scanning:
                log.warning(
                    "a scan takes longer than %g s; the catalogue is unchanged until it ends", SCAN_WAIT_SECONDS
                )
                return
            self._is_scanning, self._started = True, number
        try:
            self._scan()
        finally:  # also on SystemExit: no thread may wait for a scan that has ended
            with self._state:
                self._is_scanning, self._finished = False, number
                self._state.notify_all()

    def run_if_due(self) -> bool:
        """Scan on another thread, unless a request has just caused a scan. Whether one has ended now.

        Waits half a second at most: a name that does not exist is rejected soon, however many files there are.
        """
        with self._requested:
            if self._ended.is_set() and not self._start_if_due():
                return False
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._ended.wait(REQUEST_WAIT_SECONDS)
        finally:
            self._waiting.release()

    def _start_if_due(self) -> bool:
        if time.monotonic() < self._next_at:
            return False
        self._ended.clear()
        try:
            threading.Thread(target=self._run_for_requests, name="rescan", daemon=True).start()
        except RuntimeError:  # no thread left: the request is answered from what is known
            self._ended.set()
            return False
        return True

    def _run_for_requests(self) -> None:
        began = time.monotonic()
        try:
            self.run()
        finally:
            ended = time.monotonic()
            self._next_at = ended + max(REST_SECONDS, REST_FACTOR * (ended - began))
            self._ended.set()

    def wait_until_idle(self) -> None:
        """Wait for a running scan, if it does not hang."""
        with self._state:
            if not self._state.wait_for(lambda: not self._is_scanning, SCAN_WAIT_SECONDS):
                log.warning("a scan takes longer than %g s; its result will be dropped", SCAN_WAIT_SECONDS)
