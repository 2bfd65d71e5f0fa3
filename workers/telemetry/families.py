"""Counters and histograms of many series, whose part of a page is quickly written.

With 64 models there are 6,000 series of requests. prometheus_client (0.26) makes and encodes a sample for each of them,
which takes 60 ms; here each series keeps the beginning of its lines. `collect` is what the library makes of a family.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from workers.telemetry.page_text import header, label_text

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
    sum: float = field(default=0.0)


class CounterFamily(Collector):
    """A counter by the values of its labels. Any thread."""

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self._name, self._help, self._labels = PREFIX + name, help_text, labels
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Count] = {}

    def inc(self, *values: str, by: float = 1.0) -> None:
        with self._lock:
            series = self._series.get(values) or self._begin(values)
            series.value += by

    def keep(self, label: str, known: Container[str]) -> None:
        """End the series with any other value of this label."""
        _keep(self._lock, self._series, self._labels, label, known)

    def collect(self) -> Iterator[Metric]:
        metric = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in list(self._series.items()):
            metric.add_metric(values, series.value, created=series.created)
        yield metric

    def text(self) -> Iterator[str]:
        series = list(self._series.values())
        yield header(f"{self._name}_total", self._help, "counter")
        yield from [f"{each.line}{each.value!r}\n" for each in series]
        yield from _created_text(self._name, self._help, series)

    def _begin(self, values: tuple[str, ...]) -> _Count:
        labels, created = label_text(dict(zip(self._labels, values, strict=True))), time.time()
        self._series[values] = series = _Count(
            f"{self._name}_total{labels} ", f"{self._name}_created{labels} {created!r}\n", created
        )
        return series


class HistogramFamily(Collector):
    """A histogram by the values of its labels. Any thread."""

    def __init__(self, name: str, help_text: str, *labels: str, buckets: Sequence[float]) -> None:
        self._name, self._help, self._labels = PREFIX + name, help_text, labels
        self._bounds = tuple(buckets)
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Distribution] = {}

    def observe(self, amount: float, *values: str) -> None:
        with self._lock:
            series = self._series.get(values) or self._begin(values)
            series.counts[bisect_left(self._bounds, amount)] += 1
            series.sum += amount

    def keep(self, label: str, known: Container[str]) -> None:
        """End the series with any other value of this label."""
        _keep(self._lock, self._series, self._labels, label, known)

    def collect(self) -> Iterator[Metric]:
        metric = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in list(self._series.items()):
            buckets = zip(self._bounds_text, accumulate(series.counts), strict=True)
            metric.add_metric(values, list(buckets), series.sum)
            labels = dict(zip(self._labels, values, strict=True))
            metric.add_sample(f"{self._name}_created", labels, series.created)
        yield metric

    def text(self) -> Iterator[str]:
        series = list(self._series.values())
        yield header(self._name, self._help, "histogram")
        for each in series:
            counts = list(accumulate(each.counts))
            values = *map(float, counts), float(counts[-1]), each.sum
            yield from [f"{line}{value!r}\n" for line, value in zip(each.lines, values, strict=True)]
        yield from _created_text(self._name, self._help, series)

    @property
    def _bounds_text(self) -> list[str]:
        return [*map(floatToGoString, self._bounds), "+Inf"]

    def _begin(self, values: tuple[str, ...]) -> _Distribution:
        labels, created = dict(zip(self._labels, values, strict=True)), time.time()
        buckets = [f"{self._name}_bucket{label_text({**labels, 'le': bound})} " for bound in self._bounds_text]
        own = label_text(labels)
        self._series[values] = series = _Distribution(
            [*buckets, f"{self._name}_count{own} ", f"{self._name}_sum{own} "],
            f"{self._name}_created{own} {created!r}\n",
            created,
            [0] * (len(self._bounds) + 1),
        )
        return series


def _created_text(name: str, help_text: str, series: Sequence[_Count | _Distribution]) -> Iterator[str]:
    if series:
        yield header(f"{name}_created", help_text, "gauge")
        yield from [each.created_line for each in series]


def _keep(
    lock: threading.Lock,
    series: dict[tuple[str, ...], _Count] | dict[tuple[str, ...], _Distribution],
    labels: Sequence[str],
    label: str,
    known: Container[str],
) -> None:
    if label not in labels:
        return
    place = labels.index(label)
    with lock:
        for values in [values for values in series if values[place] not in known]:
            del series[values]
