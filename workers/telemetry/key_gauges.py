"""Metrics of API keys, by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class KeyGauges(Collector):
    """`tokens_today`: tokens that each key has used, by its name."""

    def __init__(self, tokens_today: Callable[[], Mapping[str, int]]) -> None:
        self._tokens_today = tokens_today

    def collect(self) -> Iterator[Metric]:
        help_text = "Tokens of prompts and answers that a key has used since midnight UTC."
        tokens = GaugeMetricFamily("llama_smart_proxy_key_tokens_today", help_text, labels=["key"])
        for key, count in self._tokens_today().items():
            tokens.add_metric([key], count)
        yield tokens
