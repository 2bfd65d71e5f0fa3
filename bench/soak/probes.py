"""The prober's process, and what it has seen."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from collections import Counter
from typing import Any


class Probes:
    """Runs `bench.soak.probe` until `close`."""

    def __init__(self, port: int) -> None:
        self.seconds: list[dict[str, Any]] = []  # appended to by the reading thread alone
        command = [sys.executable, "-m", "bench.soak.probe", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seconds.append(json.loads(line))

    def since(self, at: float) -> list[dict[str, Any]]:
        """The seconds that began later than `at`, monotonic seconds."""
        return [second for second in self.seconds if second["at"] > at]

    def close(self) -> None:
        self._process.communicate(timeout=10)
        self._reader.join(5)


def summary(seconds: list[dict[str, Any]]) -> dict[str, Any]:
    """Probes, failures, and the slowest probe of each second."""
    sent, failed = sum(each["probes"] for each in seconds), sum(each["failed"] for each in seconds)
    slowest = [each["slowest_ms"] for each in seconds] or [0.0]
    return {
        "probes": sent,
        "failed": failed,
        "answered_percent": round(100 * (sent - failed) / max(1, sent), 4),
        "slowest_of_a_second_ms": {"median": statistics.median(slowest), "max": max(slowest)},
        "prober_late_ms": max((each["late_ms"] for each in seconds), default=0.0),
        "why": dict(Counter(why[:150] for each in seconds for why in each["why"])),
    }
