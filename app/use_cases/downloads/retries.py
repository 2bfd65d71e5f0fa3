"""How long a transfer that failed waits before its next try."""

from __future__ import annotations

MAX_TRIES = 6  # without a byte in between: some 30 s of pauses
MAX_PAUSE_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 300.0  # the hub counts requests over five minutes


def pause_seconds(tries: int, retry_after_seconds: float | None, random: float) -> float:
    """After so many tries in a row that brought nothing; 0: the last one did. `random`: 0 to 1, so that many clients do
    not come back at once."""
    if retry_after_seconds is not None:
        return min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
    return min(MAX_PAUSE_SECONDS, 2.0**tries / 2) * (0.75 + random / 4)
