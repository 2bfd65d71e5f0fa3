"""Faults of the Hugging Face-shaped server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Fault:
    """An answer other than the usual one, `times` times; None: until `repair()`."""

    path: str  # searched in the request's: a regular expression
    times: int | None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # an offset of the file: the connection is closed before it
    damaged_at: int | None = None  # an offset of the file: this byte is wrong; -1: the last one
    ignores_ranges: bool = False
    trickles: bool = False  # a head that comes byte by byte
    is_endless: bool = False  # the body of the answer with `status`

    def take(self, path: str, wanted: range, size: int) -> bool:
        """Whether a request for these bytes of a file meets it; counts it then."""
        at = self.damaged_at if self.cut_at is None else self.cut_at
        if self.times == 0 or not re.search(self.path, path) or (at is not None and at % size not in wanted):
            return False
        self.times = None if self.times is None else self.times - 1
        return True
