"""Whether the service works as it should, and with which engine, for /metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.launch import EngineFacts
from app.use_cases.reporting.report import degraded_reasons
from workers.telemetry.families import PREFIX
from workers.telemetry.store import StateStore


class _Engine(Protocol):
    """Of workers.engine.current_engine.CurrentEngine."""

    @property
    def facts(self) -> EngineFacts | None: ...

    @property
    def problem(self) -> str: ...


class ServiceGauges(Collector):
    """`degraded` and its number of reasons as in GET /health; `engine_info` has no series without an engine."""

    def __init__(self, store: StateStore, engine: _Engine) -> None:
        self._store = store
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        store, now = self._store, time.monotonic()
        gpus = store.gpus.as_of(now)
        reasons = degraded_reasons(store.pool, gpus, store.pins, store.configuration, self._engine.problem, now)
        yield GaugeMetricFamily(f"{PREFIX}degraded_reasons", "Number of `reasons` in GET /health.", len(reasons))
        help_text = "1 while the service stops: it accepts no requests."
        yield GaugeMetricFamily(f"{PREFIX}draining", help_text, float(store.pool.draining))
        help_text = "The engine that new servers are started with; no series without one."
        info = GaugeMetricFamily(f"{PREFIX}engine_info", help_text, labels=["kind", "version"])
        if facts := self._engine.facts:
            info.add_metric([facts.kind, facts.version], 1)
        yield info
