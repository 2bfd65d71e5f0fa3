"""How a step ends early: permanently, or until the next run continues it."""

from __future__ import annotations

import time


class CannotContinue(Exception):
    """The step is not possible; the message is one line that says why and what to do."""


class OutOfTime(Exception):
    """The time limit was reached; the next run continues from the saved progress."""


class Deadline:
    """The monotonic time by which a step must end."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def check(self, needed_seconds: float = 0.0) -> None:
        """Raises OutOfTime unless more than `needed_seconds` are left."""
        if self.seconds_left <= needed_seconds:
            raise OutOfTime

    def sooner(self, other: Deadline) -> Deadline:
        return self if self._at <= other._at else other
