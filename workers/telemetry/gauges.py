"""The metrics of /metrics: request counters are kept here; servers are read from the pool's snapshot at scrape time."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Set
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.entities.server import ServerState
from workers.telemetry.configuration_metrics import ConfigurationMetrics
from workers.telemetry.gpu_gauges import GpuGauges
from workers.telemetry.limited_registry import LimitedRegistry
from workers.telemetry.pool_counts import PoolCounts
from workers.telemetry.store import StateStore

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Gauges:
    """The service's own registry. Label values come from the catalogue or our routes, never from clients."""

    def __init__(self, store: StateStore, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_ServerCollector(store))
        registry.register(GpuGauges(store))
        registry.register(ConfigurationMetrics(store))
        Gauge("llama_smart_proxy_build_info", "Build information.", ["version"], registry=registry).labels(version).set(
            1
        )
        self._requests = Counter(
            "llama_smart_proxy_requests",
            "Inference requests by status code (499: client disconnected).",
            ["endpoint", "model", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "llama_smart_proxy_request_duration_seconds",
            "Time from the arrival of a request to the last byte of its response.",
            ["endpoint", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "llama_smart_proxy_time_to_first_byte_seconds",
            "Time from the arrival of a request to the response headers of llama-server.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._wait = Histogram(
            "llama_smart_proxy_queue_wait_seconds",
            "Time from the arrival of a request until it has a slot, including model loads.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "llama_smart_proxy_tokens",
            "Tokens of complete responses, as counted by llama-server.",
            ["model", "kind"],
            registry=registry,
        )
        self._series_by_labels: dict[tuple[object, ...], Any] = {}
        self.pool = PoolCounts(registry)

    def add(self, collector: Collector) -> None:
        """Show more metrics."""
        self._registry.register(collector)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that is read at each scrape."""
        Gauge(f"llama_smart_proxy_{name}", help_text, registry=self._registry).set_function(read)

    def answered(
        self, endpoint: str, model: str, code: int, seconds: float, prompt_tokens: int, completion_tokens: int
    ) -> None:
        self._series(self._requests, endpoint, model, str(code)).inc()
        self._series(self._duration, endpoint, model).observe(seconds)
        for kind, tokens in (("prompt", prompt_tokens), ("completion", completion_tokens)):
            if tokens:
                self._series(self._tokens, model, kind).inc(tokens)

    def first_byte(self, model: str, seconds: float, waited_seconds: float) -> None:
        self._series(self._first_byte, model).observe(seconds)
        self._series(self._wait, model).observe(waited_seconds)

    def _series(self, family: Counter | Histogram, *labels: str) -> Any:
        """The series with these label values. Cached: the library's lookup takes a lock and validates the values."""
        key = (id(family), *labels)
        series = self._series_by_labels.get(key)
        if series is None:
            series = self._series_by_labels[key] = family.labels(*labels)
        return series

    def render(self, accept: str, models: Set[str] | None = None) -> tuple[bytes, str]:
        """The page in the format that the scraper accepts, and its content type. `models`: only what concerns these
        models and the machine; None: everything."""
        encoder, content_type = choose_encoder(accept)
        registry = self._registry if models is None else LimitedRegistry(self._registry, models)
        return encoder(registry), content_type


def _memory_gauge(name: str, help_text: str, sizes: Counts[tuple[str, str]]) -> GaugeMetricFamily:
    """Bytes by model and device."""
    gauge = GaugeMetricFamily(f"llama_smart_proxy_{name}", help_text, labels=["model", "gpu"])
    for labels, size in sizes.items():
        gauge.add_metric(labels, size)
    return gauge


class _ServerCollector(Collector):
    """Reads the pool's snapshot, so the series of a server end with it."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        pool = self._store.pool
        state = GaugeMetricFamily(
            "llama_smart_proxy_server_state",
            "Current state of a server (1 for the active state).",
            labels=["model", "server", "state"],
        )
        # Sums: a model may have several servers on a device.
        booked, needed = Counts[tuple[str, str]](), Counts[tuple[str, str]]()
        estimated, reported = Counts[str](), Counts[str]()
        for server in pool.servers:
            name = server.model.name
            for possible in ServerState:
                state.add_metric([name, str(server.id), possible], float(server.state is possible))
            booked.update({(name, device): size for device, size in server.booked.items()})
            needed.update({(name, device): size for device, size in (server.reported or {}).items()})
            if server.reported_bytes:
                estimated[name] += sum(server.placement.booked_bytes.values())
                reported[name] += server.reported_bytes
        running = sum(len(server.leases) for server in pool.servers)
        suspects = GaugeMetricFamily(
            "llama_smart_proxy_suspect_requests",
            "Requests, by hash, that were in flight when a server ended: to run alone, or refused.",
            labels=["action"],
        )
        refused = sum(suspect.is_refused for suspect in pool.suspects.values())
        suspects.add_metric(["refuse"], refused)
        suspects.add_metric(["run_alone"], len(pool.suspects) - refused)
        yield suspects
        yield state
        help_text = "Memory booked for the servers of a model (gpu: UUID, or cpu)."
        yield _memory_gauge("server_memory_estimate_bytes", help_text, booked)
        help_text = "Memory of the servers of a model: as reported while loading, as measured once loaded."
        yield _memory_gauge("server_memory_bytes", help_text, needed)
        error = GaugeMetricFamily(
            "llama_smart_proxy_estimate_error_ratio",
            "Relative error of the initial memory estimate (estimate / measured - 1).",
            labels=["model"],
        )
        for name, size in reported.items():
            error.add_metric([name], estimated[name] / size - 1)
        yield error
        yield GaugeMetricFamily("llama_smart_proxy_requests_in_flight", "Requests that currently hold a slot.", running)
        help_text = "Requests that wait for a slot or a model load."
        waiting = GaugeMetricFamily("llama_smart_proxy_requests_waiting", help_text, labels=["model"])
        names = [w.model.name for w in pool.waiting]
        for name in dict.fromkeys(names):
            waiting.add_metric([name], names.count(name))
        yield waiting
