"""The account of a soak: what became of each request, and what went wrong. Any thread may add to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.soak.outcome import CUT, LEFT, REFUSED, Answer, Outcome, outcome

MAX_FAILURES = 200  # described; all are counted


@dataclass
class Outage:
    """The service from a kill until /health answers again. `survivors`: its processes that outlived the kill."""

    began: float
    ended: float = float("inf")
    survivors: int = 0


@dataclass
class Account:
    """Counts are since the last `reset`. `began`: monotonic seconds."""

    began: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    by_model: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failure_count: int = 0
    started: list[tuple[float, str]] = field(default_factory=list)  # faults, for the plot
    outages: list[Outage] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Forget the counts of the warm-up, but not its failures."""
        with self._lock:
            self.began = time.monotonic()
            self.faults, self.by_model, self.started = Counter(), {}, []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def add(self, answer: Answer) -> Outcome:
        """Count an answer. Without a clear end it is a failure, unless the service was killed meanwhile."""
        found = outcome(answer)
        if answer.problem and self._was_down(answer.seconds):
            found = Outcome(REFUSED if answer.is_refused else CUT)
        with self._lock:
            self.by_model.setdefault(answer.model, Counter())[found.kind] += 1
        if found.problem:
            self.fail(f"a request for {answer.model!r} after {answer.seconds:.1f} s: {found.kind}: {found.problem}")
        return found

    def _was_down(self, seconds: float) -> bool:
        """Whether the service was down in the last `seconds`."""
        now = time.monotonic()
        return any(each.began <= now and each.ended >= now - seconds for each in self.outages)

    @contextlib.contextmanager
    def outage(self) -> Iterator[Outage]:
        """While the service is killed, and until it answers again."""
        outage = Outage(time.monotonic())
        self.outages.append(outage)
        try:
            yield outage
        finally:
            outage.ended = time.monotonic()

    def add_left(self, model: str) -> None:
        with self._lock:
            self.by_model.setdefault(model, Counter())[LEFT] += 1

    def begin(self, kind: str) -> None:
        with self._lock:
            self.faults[kind] += 1
            self.started.append((round(self.seconds, 1), kind))

    def fail(self, what: str) -> None:
        with self._lock:
            self.failure_count += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(f"{self.seconds:.1f} s: {what}")

    def totals(self) -> Counter[str]:
        """All requests, by what became of them."""
        with self._lock:
            return sum(self.by_model.values(), Counter[str]())
