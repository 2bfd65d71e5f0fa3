"""Lines of the service's log and of the engines' logs."""

from __future__ import annotations

from dataclasses import dataclass

SERVICE = ""  # the source of the service's own lines; an engine's lines have its model's name


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `at`: Unix seconds, when it was read; `server`: the id of the llama-server, "" for the service."""

    at: float
    source: str
    server: str
    text: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines of one source, oldest first. `skipped`: how many before them were dropped unread; `position`: where the
    next page begins."""

    lines: tuple[LogLine, ...]
    skipped: int
    position: int
