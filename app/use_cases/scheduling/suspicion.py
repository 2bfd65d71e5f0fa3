"""Suspicion: what is remembered of requests that were in flight when a server ended. suspects.py says what follows."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.model import Model


@dataclass(frozen=True, slots=True)
class Suspect:
    """A request that was in flight when a server of its model ended."""

    model: Model
    ticket: int  # by which it was sent then
    until: float
    is_refused: bool  # it ran alone then; else it runs alone the next time


@dataclass(frozen=True, slots=True)
class Crash:
    """A server of the model was crashed by one of its requests."""

    model: Model
    at: float
    keys: frozenset[str]  # names of the keys whose requests it was working on
    users: frozenset[str]  # and of all that used the model: their requests ran or waited


@dataclass(frozen=True, slots=True)
class ExclusiveUse:
    """One server of a model is closed to all but one suspect, first until it is empty, then while the suspect runs."""

    server: int
    ticket: int
    since: float
    until: float  # of the present part
    open_until: float | None = None  # it is over: all servers of the model are open to everyone until then
