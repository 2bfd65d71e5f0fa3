"""A llama-server's own metrics page, its series renamed and labelled for ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ENGINE_PREFIX = "llamacpp:"
MAX_SAMPLES = 200  # of a server; b11549 has 15
# llamacpp:n_tokens_max is a maximum. As a counter it would get another name: those of OpenMetrics end in _total.
MISNAMED_COUNTER = re.compile(r"^(# TYPE \S+(?<!_total)) counter$", re.MULTILINE)


def engine_metrics(page: str, model: str, server: str) -> list[Metric]:
    """The page's families as `llamacpp_*`, each sample with these labels. Raises ValueError if it is not one.

    A colon is for the names of recording rules. Other names than the engine's own might be names of ours.
    """
    labels, count, found = {"model": model, "server": server}, 0, []
    for family in text_string_to_metric_families(MISNAMED_COUNTER.sub(r"\1 gauge", page)):
        samples = {(s.name, *sorted(s.labels.items())): s for s in family.samples if s.name.startswith(ENGINE_PREFIX)}
        count += len(samples)
        if samples and count <= MAX_SAMPLES:
            found.append(_relabelled(family, samples.values(), labels))
    return found


def _relabelled(family: Metric, samples: Iterable[Sample], labels: dict[str, str]) -> Metric:
    metric = Metric(_renamed(family.name), family.documentation, family.type)
    for sample in samples:
        metric.add_sample(_renamed(sample.name), {**sample.labels, **labels}, sample.value)
    return metric


def _renamed(name: str) -> str:
    return name.replace(":", "_")


def merged_families(pages: Iterable[Iterable[Metric]]) -> Iterator[Metric]:
    """Each family once, with the samples of all pages; type and help of the first."""
    families: dict[str, Metric] = {}
    for metric in (metric for page in pages for metric in page):
        if metric.name not in families:
            families[metric.name] = Metric(metric.name, metric.documentation, metric.type)
        families[metric.name].samples += metric.samples
    yield from families.values()
