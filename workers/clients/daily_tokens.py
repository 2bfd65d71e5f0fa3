"""DailyTokens: how many tokens each API key has used since midnight UTC, remembered across restarts.

Any thread counts, under a lock; one thread writes the file, so that no request waits for the disk. A full or read-only
disk costs a warning, and the counts live on in memory. The file has names of keys, nothing of the keys themselves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

ONE_DAY = timedelta(days=1)
WRITE_SECONDS = 1.0  # between two writes; a service that is killed loses this much


class DailyTokens:
    """Owner of the counts and of their file. `clock`: Unix seconds."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()  # guards the next three
        self._day, tokens = _read(file)
        self._tokens = Counter(tokens)  # by key name, of this day
        self._is_written = True
        self._is_failing = False  # the last write failed; of the writing thread
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-tokens", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write the last counts and end the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def count(self, key: str, tokens: int) -> None:
        """Add to what the key of this name has used today."""
        if tokens:
            with self._lock:
                self._begin_day()
                self._tokens[key] += tokens
                self._is_written = False

    def used(self, key: str) -> tuple[int, date]:
        """Tokens that the key of this name has used today, and which day that is."""
        with self._lock:
            self._begin_day()
            return self._tokens[key], self._day

    def all(self) -> Mapping[str, int]:
        """Tokens used today, by name of the key."""
        with self._lock:
            self._begin_day()
            return dict(self._tokens)

    def _begin_day(self) -> None:
        """Forget the counts of an earlier day. The caller holds the lock.

        A clock that is set back over midnight must not give the day's tokens once more: the day stays, as long as the
        clock is not more than a day behind. Then it was wrong before, and the counts go on under the right day.
        """
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        if today > self._day:
            self._day, self._tokens = today, Counter()
        elif self._day - today > ONE_DAY:
            self._day = today

    def _run(self) -> None:
        while not self._closing.wait(WRITE_SECONDS):
            self.write()
        self.write()

    def write(self) -> None:
        """Write the counts if they have changed; what could not be written is tried again."""
        with self._lock:
            if self._is_written:
                return
            text = json.dumps({"day": self._day.isoformat(), "tokens": self._tokens}, indent=2) + "\n"
            self._is_written = True
        try:
            _replace(self._file, text)
            self._is_failing = False
        except OSError as error:
            with self._lock:
                self._is_written = False
            if not self._is_failing:
                log.warning("cannot save the tokens used today (%s): %s; they are kept in memory", self._file, error)
            self._is_failing = True


def _replace(file: Path, text: str) -> None:
    """Replace the file as a whole: a crash leaves the old one or the new one."""
    partial = file.with_suffix(".new")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            opened.write(text)
        os.replace(partial, file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _read(file: Path) -> tuple[date, dict[str, int]]:
    """The day and counts in the file; no counts if there is none, or it cannot be read."""
    try:
        written = json.loads(file.read_text())
        tokens = {str(name): int(count) for name, count in written["tokens"].items() if int(count) > 0}
        return date.fromisoformat(written["day"]), tokens
    except FileNotFoundError:
        return date.min, {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        log.warning("cannot read the tokens used today, counting from zero (%s): %s", file, error)
        return date.min, {}
