"""The metrics page with a series of each kind, for tests of what is exported."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.peer import PeerStatus
from app.entities.placement import CPU
from app.ports import Address
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import GIB, Play, a_model, an_engine
from workers.build_gauges import build_gauges
from workers.downloads.counts import DownloadCounts
from workers.engine_metrics.series import EngineSeries
from workers.telemetry.store import StateStore

# Of the embedded engine (b11549).
ENGINE_PAGE = """\
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 25
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 0
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 0.01
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 4
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total 0.003
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 0
# TYPE llamacpp:n_busy_slots_per_decode gauge
llamacpp:n_busy_slots_per_decode 1
"""


class _Exporter(Play):
    def __init__(self) -> None:
        super().__init__(total_gib=16)
        self.store = StateStore(self.state)
        engine = SimpleNamespace(facts=an_engine(), problem="")
        tokens = SimpleNamespace(all=lambda: {"alice": 30})
        bodies = SimpleNamespace(budget=SimpleNamespace(taken_bytes=0))
        downloads = SimpleNamespace(all=(), counts=DownloadCounts())
        peers = SimpleNamespace(statuses=(PeerStatus("box2"),))
        others = (SimpleNamespace(service=engine, states=dict), tokens, bodies, downloads, peers)
        self.gauges = build_gauges(self.store, *(cast(Any, each) for each in others))
        self.engines = EngineSeries(lambda: self.state.servers)
        self.gauges.add(self.engines)

    def stepped(self, before: PoolState, event: ev.Event) -> list[Effect]:
        effects = super().stepped(before, event)
        self.gauges.count_step(before, event, effects)
        return effects


def exported() -> dict[str, Metric]:
    """The families by name, each with series: all that there are metrics of has happened, and GPUs are gone."""
    exporter = _Exporter()
    exporter.ask(a_model(gib=40))  # refused
    evicted = exporter.up(a_model("evicted", gib=12))
    exporter.ask(a_model("ready", gib=12), at=300.0)
    exporter.post(ev.Exited(evicted, "", 300.5))
    server = exporter.state.servers[-1].id
    exporter.post(ev.Ready(server, 9000, 301.0), ev.Measured(server, {CPU: 12 * GIB}, 301.0))
    for _ in range(3):  # of two slots
        exporter.ask(a_model("ready", gib=12), at=302.0)
    exporter.gauges.answered("/v1/completions", "ready", 200, 1.0, 10, 20, "alice")
    exporter.gauges.first_byte("ready", 0.5, 0.25)
    exporter.engines.publish([(Address(server, "ready", 9000, "key"), ENGINE_PAGE.encode())])
    exporter.store.pool = replace(exporter.state, gpus=_a_snapshot())
    page = exporter.gauges.render("")[0].decode()
    return {family.name: family for family in text_string_to_metric_families(page)}


def _a_snapshot() -> GpuSnapshot:
    now = time.monotonic()
    gpu = Gpu("GPU-a", 0, "card", "00:01.0", 24 * GIB, 20 * GIB, 4 * GIB, 50, 60, 200.0)
    gone = MissingGpu("GPU-b", 1, "card", "fell off the bus")
    return GpuSnapshot(
        GpuState.OK, now, (gpu,), (gone,), answered_at=now, errors={"NVML_ERROR_UNKNOWN": 1}, poll_seconds=3600
    )
