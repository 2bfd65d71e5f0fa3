"""Whether the service works as it should, and with which engine, for /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.launch import EngineFacts, EngineState, OwnEngine
from app.use_cases.reporting.engines import own_engine_problems
from app.use_cases.reporting.report import degraded_reasons
from workers.telemetry.families import PREFIX
from workers.telemetry.store import StateStore


class _Engine(Protocol):
    """Of workers.engine.current_engine.CurrentEngine."""

    @property
    def facts(self) -> EngineFacts | None: ...

    @property
    def problem(self) -> str: ...


OwnEngines = Callable[[], Mapping[OwnEngine, EngineState]]  # those that models have


class ServiceGauges(Collector):
    """`degraded` and its number of reasons as in GET /health; `engine_info` has no series without an engine."""

    def __init__(self, store: StateStore, engine: _Engine, own_engines: OwnEngines = dict) -> None:
        self._store = store
        self._engine = engine
        self._own_engines = own_engines

    def collect(self) -> Iterator[Metric]:
        store, now = self._store, time.monotonic()
        gpus, own = store.gpus.as_of(now), self._own_engines()
        problems = (*own_engine_problems(own, gpus), *store.pins)
        reasons = degraded_reasons(store.pool, gpus, problems, store.configuration, self._engine.problem, now)
        yield GaugeMetricFamily(f"{PREFIX}degraded_reasons", "Number of `reasons` in GET /health.", len(reasons))
        help_text = "1 while the service stops: it accepts no requests."
        yield GaugeMetricFamily(f"{PREFIX}draining", help_text, float(store.pool.draining))
        help_text = "The engines that new servers are started with; no series without one."
        info = GaugeMetricFamily(f"{PREFIX}engine_info", help_text, labels=["kind", "version"])
        found = (self._engine.facts, *(state.facts for state in own.values() if state.use.models))
        for kind, version in dict.fromkeys((facts.kind, facts.version) for facts in found if facts):
            info.add_metric([kind, version], 1)
        yield info
