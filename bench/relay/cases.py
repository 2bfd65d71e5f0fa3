"""The load that every system is measured with, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

SLOTS_LEFT = 40  # per server, kept for the extra streams


@dataclass(frozen=True, order=True)
class Case:
    """A number of concurrent streams, and the rate of each in tokens per second."""

    streams: int
    rate: int

    @property
    def servers(self) -> int:
        """Number of servers needed, with 256 slots each, some of them kept for the extra streams."""
        return math.ceil(self.streams / (256 - SLOTS_LEFT))

    def __str__(self) -> str:
        return f"{self.streams} x {self.rate}"


FEW, SLOW, FAST, MANY = Case(16, 50), Case(256, 50), Case(256, 100), Case(1000, 20)


@dataclass(frozen=True)
class Times:
    """Durations in seconds. Streams open in the ramp, are measured in the window; then first tokens, then /health."""

    ramp: float = 2.0
    window: float = 8.0
    probing: float = 5.0
    hold: float = 3.0
    small: float = 5.0
    pause: float = 1.0


QUICK = Times(ramp=0.6, window=1.2, probing=0.8, hold=0.6, small=1.0, pause=0.3)
PROBES_PER_SECOND = 23
