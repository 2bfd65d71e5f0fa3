"""docs/metrics.md lists what /metrics has."""

from __future__ import annotations

import re
from pathlib import Path

from app.use_cases.reporting.waiting import queue_report
from app.use_cases.scheduling.effects import StopReason
from tests.helpers.exporter import exported
from workers.telemetry.families import PREFIX

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def test_the_page_lists_every_metric_with_its_type_and_labels():
    """What a family has no series of has no labels either, so each must have one."""
    found = {}
    for family in exported().values():
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
