"""Metrics of downloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.download import Download
from workers.telemetry.families import PREFIX


class _Counts(Protocol):
    """Of workers.downloads.counts.DownloadCounts."""

    @property
    def ended(self) -> Mapping[str, int]: ...

    @property
    def received_bytes(self) -> int: ...


class _Downloads(Protocol):
    """Of workers.downloads.downloader.Downloader."""

    @property
    def all(self) -> tuple[Download, ...]: ...

    @property
    def counts(self) -> _Counts: ...


class DownloadGauges(Collector):
    """How many downloads run, how they ended, and what they received."""

    def __init__(self, downloads: _Downloads) -> None:
        self._downloads = downloads

    def collect(self) -> Iterator[Metric]:
        counts = self._downloads.counts
        running = sum(each.is_running for each in self._downloads.all)
        yield GaugeMetricFamily(f"{PREFIX}downloads_running", "Downloads of models that are running.", running)
        ended = CounterMetricFamily(f"{PREFIX}downloads", "Downloads of models that have ended.", labels=["outcome"])
        for outcome, count in counts.ended.items():
            ended.add_metric([str(outcome)], count)
        yield ended
        help_text = "Bytes of models received from Hugging Face."
        yield CounterMetricFamily(f"{PREFIX}download_bytes", help_text, counts.received_bytes)
