"""Backoff: a model in a crash loop is started after ever longer pauses; each further failure doubles the pause.

The first failure causes no pause: the file may just have been replaced, or another process have taken the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from app.entities.model import Model
from app.entities.server import Server

MAX_BACKOFF_SECONDS = 60.0
STABLE_SECONDS = 60.0  # a server that was ready for this long did not fail because of its start


@dataclass(frozen=True, slots=True)
class Backoff:
    """How many servers of a model failed in a row, and when the next one may be started for waiting requests."""

    model: Model
    consecutive_failures: int
    until: float


Backoffs = Mapping[str, Backoff]  # by model name


def with_failure(backoffs: Backoffs, server: Server, at: float) -> Backoffs:
    """The backoffs after `server` ended `at` without having been stopped."""
    before = backoffs.get(server.model.name)
    is_first = before is None or not before.model.is_served_as(server.model) or was_healthy(server, at)
    failures = 1 if before is None or is_first else before.consecutive_failures + 1
    pause_seconds = doubled(1.0, MAX_BACKOFF_SECONDS, failures - 1) if failures > 1 else 0.0
    return {**backoffs, server.model.name: Backoff(server.model, failures, at + pause_seconds)}


def doubled(first: float, longest: float, times: int) -> float:
    """A pause that is doubled so many times, `longest` at most."""
    return min(longest, first * 2.0 ** min(times, 16))


def without_backoff(backoffs: Backoffs, name: str) -> Backoffs:
    """The backoffs without that of the model called `name`."""
    return {other: backoff for other, backoff in backoffs.items() if other != name} if name in backoffs else backoffs


def was_healthy(server: Server, at: float) -> bool:
    """Whether the server completed a request, or was ready for STABLE_SECONDS."""
    return server.has_completed_request or (server.ready_at is not None and at - server.ready_at >= STABLE_SECONDS)


def active_backoff(backoffs: Backoffs, model: Model, now: float) -> Backoff | None:
    """The backoff that delays this model now. None also if its file or its settings have changed since the failures."""
    return backoffs[model.name] if now < backoff_until(backoffs, model) else None


def backoff_until(backoffs: Backoffs, model: Model) -> float:
    """When the next server of the model may be started; -inf if nothing delays it."""
    backoff = backoffs.get(model.name)
    return backoff.until if backoff is not None and backoff.model.is_served_as(model) else -inf
