"""Metrics of peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.peer import PeerStatus
from workers.telemetry.families import PREFIX


class PeerGauges(Collector):
    """Whether each answers, and what it is working on."""

    def __init__(self, statuses: Callable[[], Sequence[PeerStatus]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        up = _gauge("peer_up", "1 if the peer is sent requests, 0 while it does not answer.")
        models = _gauge("peer_models", "Models of the peer that are served.")
        running = _gauge("peer_requests_in_flight", "Requests that the peer is working on.")
        help_text = "Requests and readings of its list that the peer did not answer, or not as it should."
        failures = CounterMetricFamily(f"{PREFIX}peer_failures", help_text, labels=["peer"])
        for status in self._statuses():
            up.add_metric([status.name], float(status.is_available))
            models.add_metric([status.name], len(status.models))
            running.add_metric([status.name], status.requests)
            failures.add_metric([status.name], status.failures)
        yield from (up, models, running, failures)


def _gauge(name: str, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, help_text, labels=["peer"])
