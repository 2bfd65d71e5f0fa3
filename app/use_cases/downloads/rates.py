"""The rate of a download, over its last seconds."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_SECONDS = 5.0
FIRST_SECONDS = 1.0  # less says nothing


@dataclass(frozen=True, slots=True)
class RateWindow:
    """The bytes that were there at the times of the last readings."""

    readings: tuple[tuple[float, int], ...] = ()  # monotonic seconds, bytes

    def after(self, at: float, done_bytes: int) -> RateWindow:
        """With one more reading. Bytes that became fewer were discarded: what was before does not count."""
        earlier = self.readings
        if earlier and done_bytes < earlier[-1][1]:
            earlier = ()
        return RateWindow((*(each for each in earlier if each[0] > at - WINDOW_SECONDS), (at, done_bytes)))

    @property
    def bytes_per_second(self) -> float | None:
        """None until there are readings enough."""
        if not self.readings:
            return None
        (begin, first), (end, last) = self.readings[0], self.readings[-1]
        return (last - first) / (end - begin) if end - begin >= FIRST_SECONDS else None
