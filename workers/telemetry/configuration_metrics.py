"""The metrics of reloads, named as Prometheus names its own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.telemetry.store import StateStore


class ConfigurationMetrics(Collector):
    """Reads the published state at scrape time."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        state, prefix = self._store.configuration, "llama_smart_proxy_config"
        yield CounterMetricFamily(
            f"{prefix}_reload_failures", "Reloads of the configuration that failed.", state.failed_reloads
        )
        yield GaugeMetricFamily(
            f"{prefix}_last_reload_successful",
            "Whether the last reload of the configuration succeeded (1) or failed (0).",
            float(not state.errors),
        )
        yield GaugeMetricFamily(
            f"{prefix}_last_reload_success_timestamp_seconds",
            "Time of the last successful load of the configuration, in Unix seconds.",
            state.loaded_at,
        )
