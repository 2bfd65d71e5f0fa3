"""The disk that models are loaded from: loads that read at the same time share it, or each has one of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

ROUNDING_SECONDS = 1e-9


@dataclass
class Disk:
    """Keys are the loads in progress. Each starts its process first and then reads, at full speed while it is alone."""

    is_shared: bool
    at: float = 0.0
    _reads_from: dict[int, float] = field(default_factory=dict)
    _left: dict[int, float] = field(default_factory=dict)  # seconds of reading alone

    def begin(self, key: int, now: float, start_seconds: float, read_seconds: float) -> None:
        self._advance(now)
        self._reads_from[key], self._left[key] = now + start_seconds, read_seconds

    def drop(self, key: int, now: float) -> None:
        """The load was stopped."""
        self._advance(now)
        self._reads_from.pop(key, None)
        self._left.pop(key, None)

    def finished(self, now: float) -> list[int]:
        """The loads that are complete by now; each is told once."""
        self._advance(now)
        done = [key for key in self._reading() if self._left[key] <= ROUNDING_SECONDS]
        for key in done:
            self.drop(key, now)
        return done

    def next_at(self) -> float:
        """When the next load is complete, if none begins before; infinity without loads."""
        ahead = Disk(self.is_shared, self.at, dict(self._reads_from), dict(self._left))
        while ahead._left and not any(ahead._left[key] <= ROUNDING_SECONDS for key in ahead._reading()):
            ahead._step(inf)
        return ahead.at if ahead._left else inf

    def _reading(self) -> list[int]:
        return [key for key, at in self._reads_from.items() if at <= self.at]

    def _advance(self, until: float) -> None:
        while self.at < until:
            self._step(until)

    def _step(self, until: float) -> None:
        """To the next change of who reads, or to `until`."""
        reading = self._reading()
        sharers = len(reading) if self.is_shared else 1
        left = [self._left[key] for key in reading if self._left[key] > 0]
        ends = self.at + min(left, default=inf) * max(1, sharers)
        begins = min((at for at in self._reads_from.values() if at > self.at), default=inf)
        to = min(ends, begins, until)
        for key in reading:
            self._left[key] -= (to - self.at) / sharers
        self.at = to
