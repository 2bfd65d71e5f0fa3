"""PageRegistry: writes Prometheus's text format (version 0.0.4) of many series quickly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_TYPES = {"unknown": "untyped", "info": "gauge", "stateset": "gauge"}


class PageRegistry(CollectorRegistry):
    """A registry that writes its own page. A collector with a method `text` writes its part itself."""

    def __init__(self) -> None:
        super().__init__()
        self._writers: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._writers.append(collector)

    def text(self) -> str:
        return "".join(piece for collector in self._writers for piece in _text(collector))


def _text(collector: Collector) -> Iterable[str]:
    write = getattr(collector, "text", None)
    return write() if write else (piece for metric in collector.collect() for piece in _metric_text(metric))


def _metric_text(metric: Metric) -> Iterator[str]:
    """The lines of a family, each with its end."""
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    yield header(name, metric.documentation, _TYPES.get(metric.type, metric.type))
    yield from [f"{each.name}{label_text(each.labels)} {number_text(each.value)}\n" for each in metric.samples]


def header(name: str, help_text: str, kind: str) -> str:
    shown = help_text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {shown}\n# TYPE {name} {kind}\n"


def number_text(value: float) -> str:
    """Go, which reads it, knows inf and nan."""
    return repr(float(value))


def label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())]) + "}"


def _escaped(value: str) -> str:
    if value.isalnum():  # most are
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
