"""How a step ends before it is done: for good, or until the next run goes on."""

from __future__ import annotations

import time


class CannotGoOn(Exception):
    """The step can't be done here; the message is the one line that says why, and what to do."""


class OutOfTime(Exception):
    """The step's time is used up. What is done stays done: the next run goes on from there."""


class Deadline:
    """The moment by which a step has to end, in monotonic seconds."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def check(self, needed_seconds: float = 0.0) -> None:
        """Raises OutOfTime if less than that is left."""
        if self.seconds_left <= needed_seconds:
            raise OutOfTime

    def sooner(self, other: Deadline) -> Deadline:
        return self if self._at <= other._at else other
