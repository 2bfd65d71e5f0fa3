"""docs/metrics.md lists what /metrics has."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.use_cases.reporting.waiting import queue_report
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import StopReason
from tests.helpers.builders import Play, a_model, an_engine
from workers.build_gauges import build_gauges
from workers.engine_metrics.series import EngineSeries
from workers.telemetry.families import PREFIX
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


class Counted(Play):
    """Everything there are metrics of has happened at least once."""

    def __init__(self) -> None:
        super().__init__()
        self.store = StateStore(self.state)
        engine = SimpleNamespace(facts=an_engine(), problem="it was removed")
        tokens = SimpleNamespace(all=lambda: {"k": 1})
        bodies = SimpleNamespace(budget=SimpleNamespace(taken_bytes=0))
        self.gauges: Gauges = build_gauges(self.store, cast(Any, engine), cast(Any, tokens), cast(Any, bodies))
        series = EngineSeries(lambda: self.store.pool.servers)
        self.gauges.add(series)
        self.happen()
        series.publish([(cast(Any, SimpleNamespace(server=3, model="a")), b"")])

    def stepped(self, before: Any, event: ev.Event) -> Any:
        effects = super().stepped(before, event)
        self.gauges.count_step(before, event, effects)
        self.store.pool = self.state
        return effects

    def happen(self) -> None:
        self.gauges.answered("/v1/completions", "a", 200, 1.0, 5, 7, "k")
        self.gauges.first_byte("a", 1.0, 0.5)
        self.up(a_model("old", gib=10))
        self.ask(a_model("a", gib=10), at=5.0)  # evicts the other one
        self.post(ev.Exited(1, "", at=6.0), ev.Ready(2, 9002, at=7.0), ev.Release(2, at=8.0))
        self.ask(a_model("b", gib=40), at=9.0)  # is refused
        self.post(ev.Exited(2, "segfault", at=10.0))
        self.up(a_model("a"), at=11.0)
        self.ask(a_model("c"), at=12.0)  # waits
        gpu = Gpu("GPU-a", 0, "card", "0000:01", 2, 1, 1, 5, 40, 50.0)
        missing = (MissingGpu("GPU-b", 1, "card", "lost"),)
        now = time.monotonic()
        gpus = GpuSnapshot(GpuState.OK, now, (gpu,), missing, answered_at=now, errors={"GpuIsLost": 1})
        servers = tuple(replace(server, reported=server.booked) for server in self.state.servers)
        self.store.pool = replace(self.state, gpus=gpus, servers=servers)

    def families(self) -> list[Metric]:
        return list(text_string_to_metric_families(self.gauges.render("")[0].decode()))


def test_the_page_lists_every_metric_with_its_type_and_labels():
    """What a family has no series of has no labels either, so each must have one."""
    found = {}
    for family in Counted().families():
        if family.name.startswith(PREFIX) and not family.name.endswith("_created"):
            assert family.samples, family.name
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            name = family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
            found[name] = (family.type, labels)
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", PAGE, re.MULTILINE)
    assert {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows} == found
    assert len(rows) == len(found)


def test_the_page_lists_every_cause_and_every_reason():
    causes = set(
        re.findall(r"one of (.*)\.$", (queue_report.__doc__ or "").replace(" and ", ", "), re.MULTILINE)[0].split(", ")
    )
    assert set(
        re.findall(r"^\| `(\w+)` \| [^|]*\|$", PAGE.partition("## Why requests wait")[2], re.MULTILINE)
    ) == causes | {"cause"}
    reasons = PAGE.partition("## Why servers end")[2].partition("##")[0]
    assert {*map(str, StopReason), "crashed", "out_of_memory"} == set(re.findall(r"`(\w+)`", reasons)) - {"reason"}
