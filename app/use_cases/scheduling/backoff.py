"""The brake on models whose servers end before they were of use: each such end doubles the time to the next start.

The first end brakes nothing: a file may have been replaced in that moment, a stranger have taken the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from app.entities.model import Model
from app.entities.server import Server

LONGEST_SECONDS = 60.0
STABLE_SECONDS = 60.0  # who was up for so long did not end because it was started


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often in a row servers of this model were of no use, and until when none is started for those who wait."""

    model: Model
    ends: int
    until: float


Backoffs = Mapping[str, Backoff]  # by model name


def ended(backoffs: Backoffs, server: Server, at: float) -> Backoffs:
    """With an end that nobody ordered."""
    before = backoffs.get(server.model.name)
    is_another = before is None or not before.model.is_served_as(server.model) or was_of_use(server, at)
    ends = 1 if before is None or is_another else before.ends + 1
    pause_seconds = min(LONGEST_SECONDS, 2.0 ** (ends - 1)) if ends > 1 else 0.0
    return {**backoffs, server.model.name: Backoff(server.model, ends, at + pause_seconds)}


def lifted(backoffs: Backoffs, name: str) -> Backoffs:
    return {each: backoff for each, backoff in backoffs.items() if each != name} if name in backoffs else backoffs


def was_of_use(server: Server, at: float) -> bool:
    return server.has_answered or (server.ready_at is not None and at - server.ready_at >= STABLE_SECONDS)


def holds(backoffs: Backoffs, model: Model, now: float) -> Backoff | None:
    """The one that holds this model back; not if its file or its settings have changed since."""
    return backoffs[model.name] if now < held_until(backoffs, model) else None


def held_until(backoffs: Backoffs, model: Model) -> float:
    """Until then none is started of it; long ago where nothing holds it back."""
    backoff = backoffs.get(model.name)
    return backoff.until if backoff is not None and backoff.model.is_served_as(model) else -inf
