"""A llama-server's own metrics page, its series renamed and labelled for ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ENGINE_PREFIX = "llamacpp:"
MAX_SAMPLES = 200  # of a server; b11549 has 15
MAX_CHARACTERS = 256 * 1024  # of a page, which takes 70 ms; b11549's has 3,000
# Prometheus 3 allows any character in quotes, and the parser accepts it. Our text format has no quotes.
_NAME, _LABEL = re.compile(rf"{ENGINE_PREFIX}[a-zA-Z0-9_:]+"), re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# llamacpp:n_tokens_max is a maximum. As a counter it would get another name: those of OpenMetrics end in _total.
MISNAMED_COUNTER = re.compile(r"^(# TYPE \S+(?<!_total)) counter$", re.MULTILINE)


def engine_metrics(page: str, model: str, server: str) -> list[Metric]:
    """The page's families as `llamacpp_*`, each sample with these labels. Raises ValueError if it is not one.

    A colon is for the names of recording rules. Other names than the engine's own might be names of ours.
    """
    if len(page) > MAX_CHARACTERS:
        raise ValueError("too long for a page of metrics")
    try:
        families = list(text_string_to_metric_families(MISNAMED_COUNTER.sub(r"\1 gauge", page)))
    except IndexError as error:  # of the parser, at some invalid pages
        raise ValueError("not a page of metrics") from error
    labels, seen, found = {"model": model, "server": server}, set[tuple[object, ...]](), []
    for family in families:
        series = {key: sample for key, sample in _relabelled(family.samples, labels) if key not in seen}
        seen |= series.keys()
        if series and len(seen) <= MAX_SAMPLES:
            found.append(Metric(_renamed(family.name), family.documentation, family.type))
            found[-1].samples = list(series.values())
    return found


def _relabelled(samples: Iterable[Sample], labels: dict[str, str]) -> Iterator[tuple[tuple[object, ...], Sample]]:
    """The engine's own, with what tells them apart: two may have been renamed to one."""
    for sample in filter(_is_valid, samples):
        name, labelled = _renamed(sample.name), {**sample.labels, **labels}
        yield (name, *sorted(labelled.items())), Sample(name, labelled, sample.value)


def _is_valid(sample: Sample) -> bool:
    return bool(_NAME.fullmatch(sample.name)) and all(map(_LABEL.fullmatch, sample.labels))


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
