"""Port of the logs that are kept in memory."""

from __future__ import annotations

from typing import Protocol

from app.entities.log_line import LogLine, LogPage


class Logs(Protocol):
    """The last lines of the service and of each model's engines (workers.logs.history.LogHistory)."""

    def merged(self, count: int | None = None) -> list[LogLine]:
        """The last `count` lines of all sources by time, the oldest first; None: all that are kept."""

    def last(self, source: str, count: int | None = None) -> LogPage:
        """The last `count` lines of a source (SERVICE, or a model's name); None: all that are kept."""

    def after(self, source: str, position: int) -> LogPage:
        """What a source has logged since the page that ended at `position`."""
