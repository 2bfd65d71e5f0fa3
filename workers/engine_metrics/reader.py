"""EngineReader: the thread `engine-metrics`, which reads what the loaded llama-servers say about themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.ports import Address
from workers.engine_metrics.fetch import fetch

log = logging.getLogger(__name__)

Answers = Sequence[tuple[Address, bytes]]  # of the servers that answered with 200, and the bodies


@dataclass(frozen=True, slots=True)
class Subject:
    """A path that is read of every server that responds. `publish` is called by the reader's thread."""

    path: str
    interval_seconds: float
    publish: Callable[[Answers], None]
    is_wanted: Callable[[], bool] = lambda: True  # nothing is read while it is not; after that, EngineReader.wake


class EngineReader:
    """`addresses`: of the servers that respond."""

    def __init__(self, addresses: Callable[[], Sequence[Address]], *subjects: Subject) -> None:
        self._addresses = addresses
        self._due_at = dict.fromkeys(subjects, 0.0)  # monotonic seconds; of the thread
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
            subject.publish(fetch(self._addresses(), subject.path))
        except Exception:  # no file descriptor left; or a bug: the next reading may succeed
            log.exception("reading %s of the engines failed", subject.path)
