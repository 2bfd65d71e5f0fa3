"""What every system is asked for, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

SLOTS_LEFT = 40  # of each server, for the streams that come on top


@dataclass(frozen=True, order=True)
class Case:
    """So many streams at once, each of so many tokens a second."""

    streams: int
    rate: int

    @property
    def servers(self) -> int:
        """How many servers it takes, of 256 slots each, with some left for those that come on top."""
        return math.ceil(self.streams / (256 - SLOTS_LEFT))

    def __str__(self) -> str:
        return f"{self.streams} x {self.rate}"


FEW, SLOW, FAST, MANY = Case(16, 50), Case(256, 50), Case(256, 100), Case(1000, 20)


@dataclass(frozen=True)
class Times:
    """Seconds. Streams open over the ramp, and are measured in the window; then first tokens, then /health."""

    ramp: float = 2.0
    window: float = 8.0
    probing: float = 5.0
    hold: float = 3.0
    small: float = 5.0
    pause: float = 1.0


QUICK = Times(ramp=0.6, window=1.2, probing=0.8, hold=0.6, small=1.0, pause=0.3)
PROBES_PER_SECOND = 23
