"""CPU use: whether a llama-server has worked since it was last looked at, as far as the kernel knows."""

from __future__ import annotations

import time

import psutil

MIN_SHARE = 0.01  # of one core; answering a probe takes a hundredth of that


class CpuUse:
    """The CPU time of a process and its descendants: `engine.binary` may be a script that runs the engine."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._seconds, self._at = 0.0, time.monotonic()

    def has_worked(self) -> bool:
        """Whether it has used CPU time since the last call. False if that cannot be read."""
        seconds, now = self._cpu_seconds(), time.monotonic()
        used, passed = seconds - self._seconds, now - self._at
        self._seconds, self._at = seconds, now
        return used > MIN_SHARE * passed

    def _cpu_seconds(self) -> float:
        total = 0.0
        try:
            for process in (self._process, *self._process.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            pass  # it has ended, or one of its descendants has
        return total
