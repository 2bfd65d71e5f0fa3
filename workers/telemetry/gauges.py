"""The metrics of /metrics: requests are counted here; what can be read from snapshots is, at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Set

from prometheus_client import Gauge, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.registry import Collector

from workers.telemetry.configuration_metrics import ConfigurationMetrics
from workers.telemetry.families import PREFIX
from workers.telemetry.gpu_gauges import GpuGauges
from workers.telemetry.limited_registry import LimitedRegistry
from workers.telemetry.page_text import PageRegistry
from workers.telemetry.pool_counts import PoolCounts, count_each
from workers.telemetry.request_counts import RequestCounts
from workers.telemetry.server_gauges import ServerGauges
from workers.telemetry.store import StateStore
from workers.telemetry.wait_counts import WaitCounts


class Gauges:
    """The service's own registry. Label values come from the catalogue, the keys or our routes, never from clients."""

    def __init__(self, store: StateStore, version: str) -> None:
        self.registry = registry = PageRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(ServerGauges(store))
        registry.register(GpuGauges(store))
        registry.register(ConfigurationMetrics(store))
        Gauge(f"{PREFIX}build_info", "Build information.", ["version"], registry=registry).labels(version).set(1)
        requests = RequestCounts(registry)
        self.answered, self.first_byte = requests.answered, requests.first_byte
        self.count_step = count_each(PoolCounts(registry).count_step, WaitCounts(registry).count_step)

    def add(self, collector: Collector) -> None:
        """Show more metrics."""
        self.registry.register(collector)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that is read at each scrape."""
        Gauge(PREFIX + name, help_text, registry=self.registry).set_function(read)

    def render(self, accept: str, models: Set[str] | None = None, key: str = "") -> tuple[bytes, str]:
        """The page in the format that the scraper accepts, and its content type. `models`: only what concerns these
        models, the machine and the key of this name; None: everything.

        Of OpenMetrics, which Prometheus prefers, nothing is used, and it takes ten times as long.
        """
        if models is None and ("text/plain" in accept or "openmetrics" not in accept):
            return self.registry.text().encode(), CONTENT_TYPE_PLAIN_0_0_4
        encoder, content_type = choose_encoder(accept)
        registry = self.registry if models is None else LimitedRegistry(self.registry, models, key)
        return encoder(registry), content_type
