"""Reads the headers of models that have not been used yet, so that broken ones are listed before they are requested.

One thread, limited to 5 % of a core: it is not urgent, and other threads need Python's global lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from app.entities.model import Model
from app.errors import InvalidModelFile

log = logging.getLogger(__name__)

REST_FACTOR = 19  # sleep this many times the CPU time of the last header


class BackgroundCheck:
    """`unchecked_models` returns the models to check; `check` checks one of them and may raise InvalidModelFile."""

    def __init__(self, unchecked_models: Callable[[], Iterable[Model]], check: Callable[[Model], object]) -> None:
        self._unchecked_models = unchecked_models
        self._check = check
        self._scanned = threading.Event()  # set by any thread, cleared only by this one
        self._thread = threading.Thread(target=self._run, name="headers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def restart(self) -> None:
        """Start over after a scan; models of the previous scan are dropped."""
        self._scanned.set()

    def check_now(self, models: Iterable[Model], seconds: float) -> None:
        """Check these models in the caller's thread, and begin no further one after so much time."""
        ends = time.monotonic() + seconds
        for model in models:
            self._cpu_seconds_of(model)
            if time.monotonic() >= ends:
                break

    def _run(self) -> None:
        while True:
            self._scanned.wait()
            self._scanned.clear()
            for model in self._unchecked_models():
                if self._scanned.wait(REST_FACTOR * self._cpu_seconds_of(model)):
                    break

    def _cpu_seconds_of(self, model: Model) -> float:
        began = time.thread_time()
        try:
            self._check(model)
        except InvalidModelFile:
            pass  # `check` stores the problem
        except Exception:  # a bug must not stop the checks of other models
            log.exception("the header of %s could not be checked", model.path)
        return time.thread_time() - began
