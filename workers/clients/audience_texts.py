"""AudienceTexts: what many viewers get at the same time is made once for all who may see the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Made:
    text: bytes
    at: float  # monotonic seconds
    facts: tuple[object, ...]  # what it was made of

    def is_of(self, facts: Sequence[object]) -> bool:
        """Facts are frozen and replaced whole: comparing them by value would take as long as making the text."""
        return len(facts) == len(self.facts) and all(a is b for a, b in zip(facts, self.facts, strict=True))


class AudienceTexts:
    """Any thread may get a text; others wait while one makes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, _Made] = {}

    def get(
        self, audience: Hashable, facts: Sequence[object], make: Callable[[], bytes], min_age: float, max_age: float
    ) -> bytes:
        """The last text for this audience if it is less than `min_age` seconds old, or made of the same facts and less
        than `max_age` seconds old; else a new one."""
        with self._lock:
            now, known = time.monotonic(), self._made.get(audience)
            if known is not None and now - known.at < (max_age if known.is_of(facts) else min_age):
                return known.text
            self._made = {each: made for each, made in self._made.items() if now - made.at < KEPT_SECONDS}
            self._made[audience] = new = _Made(make(), now, tuple(facts))
            return new.text
