"""Counters and histograms of many series, whose part of a page is quickly written.

With 64 models there are 6,000 series of requests. prometheus_client (0.26) makes and encodes a sample for each of them;
here each series keeps the beginning of its lines. `collect` gives the same as the library's families.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.telemetry.page_text import header, label_text, number_text

PREFIX = "llama_smart_proxy_"


@dataclass(slots=True)
class _Count:
    line: str  # up to the value
    created_line: str
    created: float  # Unix seconds
    value: float = 0.0


@dataclass(slots=True)
class _Distribution:
    lines: Sequence[str]  # of each bucket, the count and the sum, up to the value
    created_line: str
    created: float
    counts: list[int]  # by bucket, +Inf included; not cumulative
    sum: float = 0.0


_S = TypeVar("_S", _Count, _Distribution)


class _Family(Collector, Generic[_S]):
    """The series of a metric, by the values of its labels."""

    def __init__(self, registry: CollectorRegistry, name: str, help_text: str, labels: Sequence[str]) -> None:
        self._name, self._help, self._labels = PREFIX + name, help_text, labels
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _S] = {}
        registry.register(self)

    def _labelled(self, values: Sequence[str]) -> dict[str, str]:
        return dict(zip(self._labels, values, strict=True))

    def _created_line(self, values: Sequence[str], created: float) -> str:
        return f"{self._name}_created{label_text(self._labelled(values))} {number_text(created)}\n"

    def _created_text(self, series: Sequence[_S]) -> Iterator[str]:
        if series:
            yield header(f"{self._name}_created", self._help, "gauge")
            yield from [each.created_line for each in series]


class CounterFamily(_Family[_Count]):
    """A counter by the values of its labels. Any thread."""

    def __init__(self, registry: CollectorRegistry, name: str, help_text: str, *labels: str) -> None:
        """`name` without prefix and `_total`."""
        super().__init__(registry, name, help_text, labels)

    def inc(self, *values: str, by: float = 1.0) -> None:
        with self._lock:
            series = self._series.get(values) or self._begin(values)
            series.value += by

    def collect(self) -> Iterator[Metric]:
        metric = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in list(self._series.items()):
            metric.add_metric(values, series.value, created=series.created)
        yield metric

    def text(self) -> Iterator[str]:
        series = list(self._series.values())
        yield header(f"{self._name}_total", self._help, "counter")
        yield from [f"{each.line}{number_text(each.value)}\n" for each in series]
        yield from self._created_text(series)

    def _begin(self, values: tuple[str, ...]) -> _Count:
        line, created = f"{self._name}_total{label_text(self._labelled(values))} ", time.time()
        self._series[values] = series = _Count(line, self._created_line(values, created), created)
        return series


class HistogramFamily(_Family[_Distribution]):
    """A histogram by the values of its labels. Any thread."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help_text: str, *labels: str, buckets: Sequence[float]
    ) -> None:
        """`name` without prefix; `buckets`: upper bounds, without infinity."""
        super().__init__(registry, name, help_text, labels)
        self._bounds = tuple(buckets)
        self._bounds_text = [*map(number_text, buckets), "+Inf"]

    def observe(self, amount: float, *values: str) -> None:
        with self._lock:
            series = self._series.get(values) or self._begin(values)
            series.counts[bisect_left(self._bounds, amount)] += 1
            series.sum += amount

    def collect(self) -> Iterator[Metric]:
        metric = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in list(self._series.items()):
            buckets = zip(self._bounds_text, accumulate(series.counts), strict=True)
            metric.add_metric(values, list(buckets), series.sum)
            metric.add_sample(f"{self._name}_created", self._labelled(values), series.created)
        yield metric

    def text(self) -> Iterator[str]:
        series = list(self._series.values())
        yield header(self._name, self._help, "histogram")
        for each in series:
            counts = list(accumulate(each.counts))
            values = *counts, counts[-1], each.sum
            yield from [f"{line}{number_text(value)}\n" for line, value in zip(each.lines, values, strict=True)]
        yield from self._created_text(series)

    def _begin(self, values: tuple[str, ...]) -> _Distribution:
        labels, created = self._labelled(values), time.time()
        buckets = [f"{self._name}_bucket{label_text({**labels, 'le': bound})} " for bound in self._bounds_text]
        lines = [*buckets, f"{self._name}_count{label_text(labels)} ", f"{self._name}_sum{label_text(labels)} "]
        counts = [0] * len(self._bounds_text)
        self._series[values] = series = _Distribution(lines, self._created_line(values, created), created, counts)
        return series
