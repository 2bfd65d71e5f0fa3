"""LogHistory: the last lines of the service and of each model's engines, in bounded memory.

An engine's lines outlive it, so that a crash can be investigated. Lines are numbered by source: a reader that falls
behind learns how many lines it has missed.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice

from app.entities.log_line import SERVICE, LogLine, LogPage

SOURCE_BYTES = 1024**2  # of the service, and of each model
ENGINES_BYTES = 16 * 1024**2  # of all models together
LINE_OVERHEAD_BYTES = 200  # of a LogLine and its text as objects


class _Ring:
    """The last lines of one source."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.size_bytes = 0
        self.next_number = 0

    @property
    def first_number(self) -> int:
        return self.next_number - len(self.lines)

    def append(self, line: LogLine) -> None:
        self.lines.append(line)
        self.size_bytes += _bytes_of(line)
        self.next_number += 1
        self.shrink(self.size_bytes - SOURCE_BYTES)

    def shrink(self, excess_bytes: int) -> None:
        """Drop the oldest lines."""
        while excess_bytes > 0 and self.lines:
            size = _bytes_of(self.lines.popleft())
            self.size_bytes -= size
            excess_bytes -= size

    def from_number(self, number: int) -> tuple[LogLine, ...]:
        return tuple(islice(self.lines, max(0, number - self.first_number), None))


def _bytes_of(line: LogLine) -> int:
    return len(line.text) + LINE_OVERHEAD_BYTES


class LogHistory:
    """Any thread may add and read, under a lock that is never held during I/O."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings: dict[str, _Ring] = {}  # by source, the one that was written to last at the end

    def add(self, source: str, server: str, texts: Sequence[str], at: float) -> None:
        """New lines of a source. `at`: Unix seconds."""
        with self._lock:
            ring = self._rings.pop(source, None) or _Ring()
            self._rings[source] = ring
            for text in texts:
                ring.append(LogLine(at, source, server, text))
            self._bound_engines()

    def _bound_engines(self) -> None:
        """The models that have been silent for longest lose their lines first."""
        engines = [ring for source, ring in self._rings.items() if source != SERVICE]
        excess = sum(ring.size_bytes for ring in engines) - ENGINES_BYTES
        for ring in engines:
            if excess <= 0:
                return
            before = ring.size_bytes
            ring.shrink(excess)
            excess -= before - ring.size_bytes

    def merged(self, count: int | None = None) -> list[LogLine]:
        """The last `count` lines of all sources by time, the oldest first; None: all that are kept."""
        with self._lock:
            sources = [tuple(ring.lines) for ring in self._rings.values()]
        lines = list(heapq.merge(*sources, key=lambda line: line.at))
        return lines if count is None else lines[len(lines) - min(count, len(lines)) :]

    def last(self, source: str, count: int | None = None) -> LogPage:
        """The last `count` lines of a source; None: all that are kept."""
        with self._lock:
            ring = self._rings.get(source) or _Ring()
            number = 0 if count is None else ring.next_number - count
            return LogPage(ring.from_number(number), 0, ring.next_number)

    def after(self, source: str, position: int) -> LogPage:
        """What a source has logged since the page that ended at `position`."""
        with self._lock:
            ring = self._rings.get(source) or _Ring()
            return LogPage(ring.from_number(position), max(0, ring.first_number - position), ring.next_number)
