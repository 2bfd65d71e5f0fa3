"""Ports of clients: who has disconnected, and what each key may still send."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Sequence
from datetime import date
from typing import Protocol

from app.entities.key import ApiKey


class WatchedClient(Protocol):
    """The client of one request (workers.clients.client_watch.ClientWatch)."""

    @property
    def is_disconnected(self) -> bool:
        """Whether the client is known to have disconnected; never False again."""

    def begin(self) -> None:
        """Watch from here on: what follows may take a while."""

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        """Call `action`, from any thread, when the client disconnects. None: nothing is left to undo."""

    def close(self) -> None:
        """Stop watching. Must come before the socket is closed."""


class Clients(Protocol):
    """Watches the sockets of clients (workers.clients.client_watch.ClientWatcher)."""

    def watch(self, client: socket.socket | None) -> WatchedClient:
        """A watch for the length of one request. None: there is no socket, and the client never disconnects."""


class Admission(Protocol):
    """The limit on concurrent inference requests (workers.clients.admission.AdmissionLimit)."""

    def acquire(self) -> None:
        """One more is running. Raises Overloaded if too many are; never waits."""

    def release(self) -> None:
        """One has ended."""


class SharedTexts(Protocol):
    """One text for all viewers who may see the same (workers.clients.audience_texts.AudienceTexts)."""

    def get(
        self, audience: Hashable, facts: Sequence[object], make: Callable[[], bytes], min_age: float, max_age: float
    ) -> bytes:
        """The last text for this audience if it is less than `min_age` seconds old, or made of the same facts and less
        than `max_age` seconds old; else a new one."""


class RateLimits(Protocol):
    """Requests per minute of each key (workers.clients.admission.KeyRateLimits)."""

    def take(self, key: ApiKey) -> float:
        """Count one request: 0.0 if it is allowed, else the seconds until the next one is."""


class TokenCounts(Protocol):
    """Tokens that each key has used today (workers.clients.daily_tokens.DailyTokens)."""

    def used(self, key: str) -> tuple[int, date]:
        """Tokens that the key of this name has used, and the UTC day on which it has."""

    def count(self, key: str, tokens: int) -> None:
        """Add to them."""
