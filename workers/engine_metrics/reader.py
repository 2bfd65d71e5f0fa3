"""EngineReader: the thread `engine-metrics`, which reads what the loaded llama-servers say about themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from app.ports import Address
from workers.engine_metrics.fetch import fetch

log = logging.getLogger(__name__)

# The embedded engine (11549) notices between two batches only that a connection was closed. A request each second would
# take one of its HTTP threads after the other while it works on a long prompt.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 10.0, 60.0  # for a server that did not answer

Answers = Sequence[tuple[Address, bytes]]  # of the servers that answered with 200, and the bodies


@dataclass(frozen=True, slots=True)
class Subject:
    """A path that is read of every server that responds. `publish` is called by the reader's thread."""

    path: str
    interval_seconds: float
    publish: Callable[[Answers], None]
    is_wanted: Callable[[], bool] = lambda: True  # nothing is read while it is not; after that, EngineReader.wake
    selects: Callable[[Address], bool] = lambda address: True  # others are left out


class EngineReader:
    """`addresses`: of the servers that respond."""

    def __init__(self, addresses: Callable[[], Sequence[Address]], *subjects: Subject) -> None:
        self._addresses = addresses
        self._due_at = dict.fromkeys(subjects, 0.0)  # monotonic seconds; of the thread
        self._pauses: dict[tuple[str, int], tuple[float, float]] = {}  # by path and server: until when, how long
        self._woken = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A subject is wanted from now on. From any thread; never waits."""
        self._woken.set()

    def close(self) -> None:
        """Nothing is read any more. Does not wait for a reading on its way."""
        self._closing = True
        self._woken.set()

    def _run(self) -> None:
        while not self._closing:
            self._woken.clear()
            for subject in self._due_at:
                if subject.is_wanted() and time.monotonic() >= self._due_at[subject]:
                    self._read(subject)
            wanted = [due_at for subject, due_at in self._due_at.items() if subject.is_wanted()]
            self._woken.wait(max(0.0, min(wanted) - time.monotonic()) if wanted else None)

    def _read(self, subject: Subject) -> None:
        self._due_at[subject] = time.monotonic() + subject.interval_seconds
        try:
            selected = filter(subject.selects, self._addresses())
            addresses = [address for address in selected if not self._is_paused(subject, address)]
            answers = fetch(addresses, subject.path)
            self._note_silent(subject, addresses, {address.server for address, _ in answers})
            subject.publish(answers)
        except Exception:  # no file descriptor left; or a bug: the next reading may succeed
            log.exception("reading %s of the engines failed", subject.path)

    def _is_paused(self, subject: Subject, address: Address) -> bool:
        return time.monotonic() < self._pauses.get((subject.path, address.server), (0.0, 0.0))[0]

    def _note_silent(self, subject: Subject, addresses: Sequence[Address], answered: Set[int]) -> None:
        now = time.monotonic()
        self._pauses = {key: pause for key, pause in self._pauses.items() if now < pause[0] + MAX_PAUSE_SECONDS}
        for address in addresses:
            key = subject.path, address.server
            _, last = self._pauses.pop(key, (0.0, 0.0))
            if address.server not in answered:
                seconds = min(2 * last, MAX_PAUSE_SECONDS) if last else FIRST_PAUSE_SECONDS
                self._pauses[key] = now + seconds, seconds
