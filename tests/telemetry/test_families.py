"""Families that write their own part of a page."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from workers.telemetry.families import CounterFamily, HistogramFamily
from workers.telemetry.page_text import PageRegistry


def a_registry() -> PageRegistry:
    registry = PageRegistry()
    requests = CounterFamily(registry, "requests", 'A "help" with a \\ and\na second line.', "model", "code")
    requests.inc("a", "200")
    requests.inc('of "x"\\y\nz', "404", by=2.5)
    seconds = HistogramFamily(registry, "seconds", "Seconds.", "model", buckets=(0.005, 0.1, 1, 600))
    for amount in (0.1, 0.2, 5000.0):
        seconds.observe(amount, "a")
    CounterFamily(registry, "never", "Of no series.", "model")
    Gauge("large", "Large.", registry=registry).set(12_345_678_901.0)
    return registry


def parsed(page: str) -> list[tuple[str, str, str, list[object]]]:
    return [
        (
            each.name,
            each.type,
            each.documentation,
            [(sample.name, sample.labels, sample.value) for sample in each.samples],
        )
        for each in text_string_to_metric_families(page)
    ]


def test_a_page_says_what_the_library_would_write():
    registry = a_registry()
    by_library = parsed(generate_latest(registry).decode())
    assert sorted(parsed(registry.text())) == sorted(by_library)
    assert any("second line" in help_text for _, _, help_text, _ in by_library)


def test_a_bucket_counts_what_is_not_above_its_bound():
    registry = CollectorRegistry()
    seconds = HistogramFamily(registry, "seconds", "Seconds.", buckets=(0.1, 1))
    for amount in (0.1, 0.5, 7.0):
        seconds.observe(amount)
    counts = [
        registry.get_sample_value("llama_smart_proxy_seconds_bucket", {"le": le}) for le in ("0.1", "1.0", "+Inf")
    ]
    assert counts == [1, 2, 3]
    assert registry.get_sample_value("llama_smart_proxy_seconds_sum") == 7.6


def test_a_number_that_is_none_does_not_break_a_page():
    class Odd(Collector):
        def collect(self) -> list[Metric]:
            metric = Metric("odd", "", "gauge")
            for index, value in enumerate((math.inf, -math.inf, math.nan)):
                metric.add_sample("odd", {"index": str(index)}, value)
            return [metric]

    registry = PageRegistry()
    registry.register(Odd())
    [(_, _, _, samples)] = parsed(registry.text())
    assert [str(value) for _, _, value in samples] == ["inf", "-inf", "nan"]  # type: ignore[misc]
