"""CurrentEngine: an engine that new servers are started with, asked anew when its files have changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from app.entities.launch import EngineFacts
from workers.engine.binary import SERVICE_KEY, find_engine, find_same_engine
from workers.engine.engine_files import Stamps, stamps_of
from workers.engine.probe_process import EngineNotFound

log = logging.getLogger(__name__)

Report = Callable[[str], None]
RETRY_SECONDS = 5.0  # a replaced engine that does not work is asked again: it may still be being copied


def _log_missing(problem: str) -> None:
    log.error("no engine: %s", problem)


class CurrentEngine:
    """Any thread may call it. `facts` and `problem` never wait; `refresh` does, while a replaced engine is asked.

    `replaced` is called without a lock held, by the thread that noticed: after every change of `facts` or `problem`.
    """

    def __init__(
        self,
        binary: str,
        replaced: Callable[[], None] = lambda: None,
        cache: Path | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
        key: str = SERVICE_KEY,
        report: Report = _log_missing,
    ) -> None:
        """As for find_engine; `binary` is engine.binary, or a model's `engine`. Once found, the engine stays the same
        program, whatever PATH says later, or is installed. `report` logs why there is none."""
        self.problem = ""  # why there is none, or why the one that replaced `facts` does not work
        self.replaced = replaced
        self._report = report
        self._find = partial(find_engine, binary, cache=cache, env=env, key=key)
        self._find_same = partial(find_same_engine, env=env, key=key)
        self._known: tuple[EngineFacts, Stamps] | None = None  # this, and the next two: written under the lock
        self._ask_at = 0.0  # monotonic seconds; after a failure
        self._lock = threading.Lock()
        self._ask()

    @property
    def facts(self) -> EngineFacts | None:
        """The last engine that worked; None if there never was one."""
        return self._known[0] if self._known else None

    def refresh(self) -> EngineFacts | None:
        """The engine as its files are now; None if it does not work, and `problem` says why."""
        if self._is_unchanged():
            return self.facts
        with self._lock:
            before = self.facts, self.problem
            if not self._is_unchanged() and time.monotonic() >= self._ask_at:
                self._ask()
            after = self.facts, self.problem
        if after != before:
            self.replaced()
        return None if self.problem else self.facts

    def _is_unchanged(self) -> bool:
        known = self._known
        return known is not None and not self.problem and stamps_of(known[0].files) == known[1]

    def _ask(self) -> None:
        before = self.facts
        stamps = stamps_of(before.files) if before else ()
        try:
            found = self._find_same(before) if before else self._find()
        except EngineNotFound as error:
            self._ask_at = time.monotonic() + RETRY_SECONDS
            if str(error) != self.problem:
                self._report(str(error))
            self.problem = str(error)
            return
        # Of before the questions, where they can be known: a file replaced since then is asked again.
        self._known = found, stamps if before and before.files == found.files else stamps_of(found.files)
        self.problem = ""
        if found != before:
            verb = "replaced" if before else "found"
            log.info("engine %s kind=%s version=%s command=%s", verb, found.kind, found.version, found.command[-1])
