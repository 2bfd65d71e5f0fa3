"""EngineSeries: the engines' own series for /metrics, from the last reading. The series of a server end with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.entities.engine_load import Drafts
from app.entities.server import Server
from workers.engine_metrics.exposition import engine_metrics, merged_families
from workers.engine_metrics.reader import Answers

log = logging.getLogger(__name__)

DRAFTED, ACCEPTED = (f"llamacpp_spec_decode_num_{which}_tokens_total" for which in ("draft", "accepted"))
COMPUTED, CACHED = "llamacpp_prompt_tokens_total", "llamacpp_prompt_tokens_cached_total"
READ_SECONDS = 15.0
# An engine answers between two batches: while it reads a long prompt on the CPU, its last values stay for a while.
MAX_AGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Reading:
    model: str
    at: float  # monotonic seconds
    metrics: Sequence[Metric]


def _log_prompts(what: str, server: int, reading: _Reading) -> None:
    """How much of its prompts was not computed, because it was in a slot, in the prompt cache or kept on disk."""
    if prompts := _prompts(reading):
        log.info("%s server=%d model=%s computed=%d cached=%d", what, server, reading.model, *prompts)


def _prompts(reading: _Reading | None) -> tuple[float, float] | None:
    """Tokens computed and cached; None before there were any."""
    found = (_total(reading, COMPUTED), _total(reading, CACHED)) if reading else (0.0, 0.0)
    return found if any(found) else None


def _log_drafts(server: int, reading: _Reading) -> None:
    """How much of what was drafted for a server that has ended was accepted, as it was last read."""
    drafts = _drafts(reading)
    if drafts.tokens:
        facts = server, reading.model, drafts.tokens, drafts.accepted, drafts.acceptance
        log.info("drafted server=%d model=%s tokens=%d accepted=%d acceptance=%.2f", *facts)


def _drafts(reading: _Reading) -> Drafts:
    return Drafts(round(_total(reading, DRAFTED)), round(_total(reading, ACCEPTED)))


def _total(reading: _Reading, name: str) -> float:
    return sum(sample.value for metric in reading.metrics for sample in metric.samples if sample.name == name)


class EngineSeries(Collector):
    """`servers`: those that exist now."""

    def __init__(self, servers: Callable[[], Sequence[Server]]) -> None:
        self._servers = servers
        self._readings: Mapping[int, _Reading] = {}  # by server id; replaced whole by `publish`
        self.drafts: Mapping[int, Drafts] = {}  # the same, of servers for which tokens were drafted

    def publish(self, answers: Answers) -> None:
        """Called by the thread that reads. A page that is none changes nothing."""
        now, present = time.monotonic(), {server.id for server in self._servers()}
        kept = {id: each for id, each in self._readings.items() if id in present and now - each.at < MAX_AGE_SECONDS}
        for address, page in answers:
            try:
                metrics = engine_metrics(page.decode("utf-8", "replace"), address.model, str(address.server))
            except ValueError:
                continue
            reading, before = _Reading(address.model, now, metrics), self._readings.get(address.server)
            if _prompts(before) is None:
                _log_prompts("first prompts", address.server, reading)
            kept[address.server] = reading
        for server, reading in self._readings.items():
            if server not in present:
                _log_prompts("prompts", server, reading)
                _log_drafts(server, reading)
        self._readings = kept
        found = {server: _drafts(reading) for server, reading in kept.items()}
        self.drafts = {server: each for server, each in found.items() if each.tokens}

    def collect(self) -> Iterator[Metric]:
        readings, up = self._readings, [server.id for server in self._servers() if server.is_up]
        current = {id: readings[id] for id in up if id in readings}
        read_at = GaugeMetricFamily(
            "llama_smart_proxy_engine_last_read_timestamp_seconds",
            "Time of the last reading of a llama-server's own metrics (llamacpp_*).",
            labels=["model", "server"],
        )
        for id, reading in current.items():
            read_at.add_metric([reading.model, str(id)], time.time() - (time.monotonic() - reading.at))
        yield read_at
        yield from merged_families(reading.metrics for reading in current.values())
