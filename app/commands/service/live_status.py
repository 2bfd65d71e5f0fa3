"""The status of a service as it changes: a thread follows its stream, and asks each second where there is none."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from app.commands.service_client import NoServiceAnswer, ask_service, open_answer, pieces_of
from app.terminal.events import server_events

POLL_SECONDS = 1.0
TREND_SECONDS = 5.0  # between two readings of the GPUs' last minutes
SILENT_SECONDS = 20.0  # an event comes at least every 5 s


class LiveStatus:
    """`wakes`: a descriptor that is readable once something is new. The thread alone writes the fields."""

    def __init__(self, url: str, status: dict[str, Any]) -> None:
        self.status = status
        self.trends: Mapping[str, Any] = {}  # percents of utilization by the GPU's UUID, oldest first
        self.problem = ""  # why `status` is old; "" if it is not
        self._url = url
        self._trends_at = 0.0
        self.wakes, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._follow()
                self._publish(ask_service(self._url, "GET", "/status", timeout_seconds=SILENT_SECONDS).body)
            except NoServiceAnswer as no_answer:
                self.problem = str(no_answer)
                self._notify()
            time.sleep(POLL_SECONDS)

    def _follow(self) -> None:
        """Returns when the stream ends, or if too many view already."""
        with open_answer(self._url, "GET", "/status/stream", timeout_seconds=SILENT_SECONDS) as response:
            if response.status_code == 200:
                for event in server_events(pieces_of(response)):
                    if event.kind == "message":
                        self._publish(json.loads(event.data))

    def _publish(self, status: dict[str, Any]) -> None:
        if "servers" in status:  # an error has none
            self.status, self.problem = status, ""
            self._read_trends()
            self._notify()

    def _read_trends(self) -> None:
        if self.status["gpus"] and time.monotonic() - self._trends_at >= TREND_SECONDS:
            answer = ask_service(self._url, "GET", "/status/history", timeout_seconds=SILENT_SECONDS)
            self.trends = {uuid: of["utilization_percent"] for uuid, of in answer.body.get("gpus", {}).items()}
            self._trends_at = time.monotonic()

    def _notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # there is enough to wake up for
            os.write(self._wake, b"x")
