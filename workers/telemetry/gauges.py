"""What /metrics shows: request counters kept here, everything about servers read from the snapshot at scrape time."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.entities.server import ServerState
from workers.telemetry.gpu_gauges import GpuGauges
from workers.telemetry.pool_counts import PoolCounts
from workers.telemetry.store import StateStore

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Gauges:
    """The service's own registry. Label values come from the catalogue or our routes, never from a client."""

    def __init__(self, store: StateStore, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_Servers(store))
        registry.register(GpuGauges(store))
        Gauge("llama_smart_proxy_build_info", "Version.", ["version"], registry=registry).labels(version).set(1)
        self._requests = Counter(
            "llama_smart_proxy_requests",
            "Inference requests answered; code 499: the client left first.",
            ["endpoint", "model", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "llama_smart_proxy_request_duration_seconds",
            "From a request's arrival to the last byte of its answer.",
            ["endpoint", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "llama_smart_proxy_time_to_first_byte_seconds",
            "From a request's arrival to the head of the engine's answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._wait = Histogram(
            "llama_smart_proxy_queue_wait_seconds",
            "From a request's arrival to its slot, the load included.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "llama_smart_proxy_tokens",
            "Tokens of answers that went out whole, as the engine counted them.",
            ["model", "kind"],
            registry=registry,
        )
        self._known: dict[tuple[object, ...], Any] = {}
        self.pool = PoolCounts(registry)

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
        """Of these values. The library looks for it under a lock, and checks the values: at every request again."""
        key = (id(family), *labels)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = family.labels(*labels)
        return found

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page in the format a scraper asked for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def _gauge(name: str, about: str, sizes: Counts[tuple[str, str]]) -> GaugeMetricFamily:
    """Bytes by model and device."""
    gauge = GaugeMetricFamily(f"llama_smart_proxy_{name}", about, labels=["model", "gpu"])
    for labels, size in sizes.items():
        gauge.add_metric(labels, size)
    return gauge


class _Servers(Collector):
    """A view of the pool's snapshot: a server that is gone leaves no series behind."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The families, each with a series for what is there now."""
        pool = self._store.pool
        state = GaugeMetricFamily(
            "llama_smart_proxy_server_state", "1 for the state a server is in.", labels=["model", "server", "state"]
        )
        # Added up: a model may have several servers on a device.
        booked, said = Counts[tuple[str, str]](), Counts[tuple[str, str]]()
        estimated, reported = Counts[str](), Counts[str]()
        for server in pool.servers:
            name = server.model.name
            for each in ServerState:
                state.add_metric([name, str(server.id), each], float(server.state is each))
            booked.update({(name, device): size for device, size in server.booked.items()})
            said.update({(name, device): size for device, size in (server.reported or {}).items()})
            if server.reported_bytes:
                estimated[name] += sum(server.placement.booked_bytes.values())
                reported[name] += server.reported_bytes
        running = sum(len(server.leases) for server in pool.servers)
        yield state
        yield _gauge("server_memory_estimate_bytes", "Memory booked for a model's servers, by UUID or cpu.", booked)
        what = "Memory a model's servers say they need, and once they are loaded were seen to."
        yield _gauge("server_memory_bytes", what, said)
        error = GaugeMetricFamily(
            "llama_smart_proxy_estimate_error_ratio", "What was booked at first, by that; 0 is right.", labels=["model"]
        )
        for name, size in reported.items():
            error.add_metric([name], estimated[name] / size - 1)
        yield error
        yield GaugeMetricFamily("llama_smart_proxy_requests_in_flight", "Requests that hold a slot.", running)
        waiting = GaugeMetricFamily("llama_smart_proxy_requests_waiting", "Requests without a slot.", labels=["model"])
        names = [w.model.name for w in pool.waiting]
        for name in dict.fromkeys(names):
            waiting.add_metric([name], names.count(name))
        yield waiting
