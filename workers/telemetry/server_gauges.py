"""The servers and the queue in /metrics, from the pool's snapshot: the series of a server end with it."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.server import ServerState
from app.use_cases.scheduling.pool_state import PoolState
from workers.telemetry.families import PREFIX
from workers.telemetry.store import StateStore

Values = TypeVar("Values", bound=tuple[str, ...])  # of the labels
Sizes = Counts[tuple[str, str]]  # bytes by model and device


class ServerGauges(Collector):
    """Reads the published snapshot at each scrape."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        pool = self._store.pool
        yield _suspects(pool)
        yield _states(pool)
        yield from _slots(pool)
        yield from _memory(pool)
        yield _estimate_error(pool)
        running = sum(len(server.leases) for server in pool.servers)
        yield GaugeMetricFamily(f"{PREFIX}requests_in_flight", "Requests that currently hold a slot.", running)
        yield _waiting(pool)


def _suspects(pool: PoolState) -> Metric:
    help_text = "Requests, by hash, that were in flight when a server ended: to run alone, or refused."
    refused = sum(suspect.is_refused for suspect in pool.suspects.values())
    actions = {("refuse",): refused, ("run_alone",): len(pool.suspects) - refused}
    return _gauge("suspect_requests", help_text, ["action"], actions)


def _states(pool: PoolState) -> Metric:
    states = {
        (server.model.name, str(server.id), str(possible)): server.state is possible
        for server in pool.servers
        for possible in ServerState
    }
    help_text = "Current state of a server (1 for the active state)."
    return _gauge("server_state", help_text, ["model", "server", "state"], states)


def _slots(pool: PoolState) -> Iterator[Metric]:
    labels, servers = ["model", "server"], {(server.model.name, str(server.id)): server for server in pool.servers}
    slots = {key: server.slots for key, server in servers.items()}
    busy = {key: server.slots_busy for key, server in servers.items()}
    yield _gauge("server_slots", "Requests that a server can process at the same time.", labels, slots)
    yield _gauge("server_slots_busy", "Slots of a server that are in use.", labels, busy)


def _memory(pool: PoolState) -> Iterator[Metric]:
    booked, needed = Sizes(), Sizes()  # sums: a model may have several servers on a device
    for server in pool.servers:
        name = server.model.name
        booked.update({(name, device): size for device, size in server.booked.items()})
        needed.update({(name, device): size for device, size in (server.reported or {}).items()})
    labels = ["model", "gpu"]
    help_text = "Memory booked for the servers of a model (gpu: UUID, or cpu)."
    yield _gauge("server_memory_estimate_bytes", help_text, labels, booked)
    help_text = "Memory of the servers of a model: as reported while loading, as measured once loaded."
    yield _gauge("server_memory_bytes", help_text, labels, needed)
    caches = {(s.model.name, str(s.id)): s.placement.prompt_cache_bytes for s in pool.servers}
    help_text = "RAM booked for the prompt cache of a server, whether it is filled or not."
    yield _gauge("server_prompt_cache_limit_bytes", help_text, ["model", "server"], caches)


def _estimate_error(pool: PoolState) -> Metric:
    estimated, reported = Counts[str](), Counts[str]()
    for server in pool.servers:
        if server.reported_bytes:
            estimated[server.model.name] += server.placement.estimated_bytes
            reported[server.model.name] += server.reported_bytes
    errors = {(name,): estimated[name] / size - 1 for name, size in reported.items()}
    help_text = "Relative error of the initial memory estimate (estimate / measured - 1)."
    return _gauge("estimate_error_ratio", help_text, ["model"], errors)


def _waiting(pool: PoolState) -> Metric:
    waiting = Counts((waiter.model.name,) for waiter in pool.waiting)
    return _gauge("requests_waiting", "Requests that wait for a slot or a model load.", ["model"], waiting)


def _gauge(name: str, help_text: str, labels: list[str], values: Mapping[Values, float]) -> Metric:
    gauge = GaugeMetricFamily(PREFIX + name, help_text, labels=labels)
    for of_labels, value in values.items():
        gauge.add_metric(of_labels, value)
    return gauge
