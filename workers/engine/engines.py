"""Engines: the service's engine, and those that models have of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from app.entities.launch import EngineFacts, EngineState, EngineUse, OwnEngine
from workers.engine.current_engine import CurrentEngine, Report

log = logging.getLogger(__name__)


class Engines:
    """Any thread may call it. Each engine is probed once, and again when its files have changed; that takes seconds."""

    def __init__(self, service: CurrentEngine, build: Callable[[OwnEngine, Report], CurrentEngine]) -> None:
        self.service = service
        self._build = build
        self._own: dict[OwnEngine, CurrentEngine] = {}  # only grows: a server may outlive the setting
        self._uses: Mapping[OwnEngine, EngineUse] = {}  # of the settings in force; replaced whole

    def of(self, engine: OwnEngine | None) -> CurrentEngine:
        """The engine of a model; None: the service's."""
        if engine is None:
            return self.service
        # Without a lock: at worst, one is probed twice.
        return self._own.get(engine) or self._own.setdefault(engine, self._build(engine, partial(self._log, engine)))

    def refresh(self, engine: OwnEngine | None) -> EngineFacts | None:
        """As CurrentEngine.refresh."""
        return self.of(engine).refresh()

    def working(self, engine: OwnEngine | None) -> EngineFacts:
        """The engine as it is now. Raises OSError if it does not work."""
        current = self.of(engine)
        facts = current.refresh()
        if facts is None:
            raise OSError(current.problem)
        return facts

    def use(self, uses: Mapping[OwnEngine, EngineUse]) -> bool:
        """Probe the engines of these settings; whether one is new. One that does not work is logged, and only its
        models have none."""
        is_new = not uses.keys() <= self._uses.keys()
        self._uses = uses
        if uses:  # at once: an engine that hangs takes as long as all of them
            with ThreadPoolExecutor(len(uses), "ask-engine") as threads:
                list(threads.map(self.refresh, uses))
        return is_new

    def _log(self, engine: OwnEngine, problem: str) -> None:
        for name in self._uses[engine].models if engine in self._uses else ():
            log.warning("models.%s.engine: %s", name, problem)

    @property
    def in_use(self) -> tuple[OwnEngine, ...]:
        """Those of the settings in force, without the service's."""
        return tuple(self._uses)

    def states(self) -> dict[OwnEngine, EngineState]:
        """As last probed; those that are not in use any more, too: servers of theirs may still run."""
        return {
            engine: EngineState(current.facts, current.problem, self._uses.get(engine, EngineUse()))
            for engine, current in tuple(self._own.items())
        }
