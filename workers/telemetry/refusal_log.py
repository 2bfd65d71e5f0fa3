"""RefusalLog: repeated refusals as one line with a count, so that a client that tries on does not fill the log."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from app.errors import ProxyError

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
MAX_KINDS = 256  # then whose request it was no longer counts

_Kind = tuple[int, str, str, str]


@dataclass(slots=True)
class _Repeated:
    written_at: float  # monotonic seconds
    reason: str
    count: int = 0  # since then


class RefusalLog:
    """Refusals by status, code, client address and details. Any thread, by the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[_Kind, _Repeated] = {}
        self._due_at = 0.0  # when the kinds are looked through next

    def note(self, problem: ProxyError, address: str, now: float, details: str = "") -> None:
        """Log a refusal at once, or count it if one like it was logged within the last INTERVAL_SECONDS."""
        for line in (*self.lines(problem, address, now, details), *self.due_lines(now)):
            log.info("%s", line)

    def flush(self, now: float) -> None:
        """Log what was counted and is due."""
        for line in self.due_lines(now):
            log.info("%s", line)

    def lines(self, problem: ProxyError, address: str, now: float, details: str = "") -> list[str]:
        """What is to be logged because of this refusal alone."""
        with self._lock:
            if len(self._kinds) >= MAX_KINDS:
                address, details = "others", ""
            kind = (problem.status, problem.code, address, details)
            if (repeated := self._kinds.get(kind)) is None:
                self._kinds[kind] = _Repeated(now, str(problem))
                return [_line(kind, str(problem))]
            repeated.count += 1
            repeated.reason = str(problem)
        return []

    def due_lines(self, now: float) -> list[str]:
        """One line for each kind that was counted in the INTERVAL_SECONDS since its last line."""
        lines: list[str] = []
        if not self._kinds or now < self._due_at:
            return lines
        with self._lock:
            self._due_at = now + 1.0
            for kind, repeated in list(self._kinds.items()):
                if now - repeated.written_at < INTERVAL_SECONDS:
                    continue
                if not repeated.count:
                    del self._kinds[kind]
                    continue
                lines.append(f"{_line(kind, repeated.reason)} repeated={repeated.count}")
                repeated.written_at, repeated.count = now, 0
        return lines


def _line(kind: _Kind, reason: str) -> str:
    status, _, address, details = kind
    return f"refused status={status}{details and ' '}{details} client={address} reason={reason!r}"
