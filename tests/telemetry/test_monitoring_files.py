"""deploy/prometheus and deploy/grafana ask for nothing that the service does not export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.entities.gpu import GpuState
from app.entities.server import ServerState
from app.use_cases.scheduling.effects import StopReason
from tests.helpers.exporter import exported
from tests.helpers.promql import Reference, references

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = BOARD["templating"]["list"]
OF_PROMETHEUS = {"job", "instance"}
VALUES: Mapping[str, Set[str]] = {
    "state": {*ServerState, *GpuState},
    "reason": {*StopReason, "crashed", "out_of_memory", "client_left"},
    "outcome": {"ready", "failed", "out_of_memory", "spawn_failed", "stopped", "place", "evict", "wait", "refuse"},
    "kind": {"prompt", "completion"},
}


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


ALERTS, RECORDED = rules("alerts.yml"), rules("recording.yml")


def labels_by_metric() -> dict[str, set[str]]:
    """Of the page's samples, and of what is recorded from them."""
    found: dict[str, set[str]] = {"up": set(OF_PROMETHEUS)}
    for family in exported().values():
        assert family.samples, f"no series of {family.name} in tests/helpers/exporter.py"
        for sample in family.samples:
            found.setdefault(sample.name, set(OF_PROMETHEUS)).update(sample.labels)
    for rule in RECORDED:
        grouped = [each.labels for each in references(rule["expr"]) if not each.metric]
        found[rule["record"]] = set(grouped[0]) - {"le"}
    return found


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    return labels_by_metric()


def problems(expression: str, metrics: Mapping[str, Set[str]]) -> list[str]:
    found = list(references(expression))
    assert any(reference.metric for reference in found), expression
    shown = {label for reference in found for label in metrics.get(reference.metric, ())}
    return [problem for reference in found for problem in _problems(reference, metrics, shown)]


def _problems(reference: Reference, metrics: Mapping[str, Set[str]], shown: Set[str]) -> Iterator[str]:
    if reference.metric and reference.metric not in metrics:
        yield f"no metric {reference.metric}"
        return
    known = metrics[reference.metric] if reference.metric else shown
    yield from (f"no label {label} of {reference.metric}" for label in reference.labels - known)
    for label, value in reference.values:
        if value not in VALUES.get(label, {value}):
            yield f"{label} of {reference.metric} is never {value}"


def board_expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for variable in VARIABLES[1:]:  # the first chooses the data source
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        yield variable["name"], f"count by ({label}) ({metric})"


def test_every_rule_uses_what_the_service_exports(metrics: dict[str, set[str]]):
    found = {each.get("alert", each.get("record")): problems(each["expr"], metrics) for each in (*ALERTS, *RECORDED)}
    assert {name: each for name, each in found.items() if each} == {}


def test_every_panel_uses_what_the_service_exports(metrics: dict[str, set[str]]):
    found = [(title, problem) for title, text in board_expressions() for problem in problems(text, metrics)]
    assert found == []


def test_a_wrong_metric_label_or_value_is_found(metrics: dict[str, set[str]]):
    prefix = "llama_smart_proxy_"
    wrong = {
        f"rate({prefix}token_total[5m])": f"no metric {prefix}token_total",
        f'sum({prefix}tokens_total{{key="a"}})': f"no label key of {prefix}tokens_total",
        f"sum by (key) ({prefix}tokens_total) > 0": "no label key of ",
        f'{prefix}nvml_state{{state=~"hung|gone"}} == 1': f"state of {prefix}nvml_state is never gone",
        f"{prefix}requests_in_flight unless on (model) up": "no label model of ",
    }
    assert {text: problems(text, metrics) for text in wrong} == {text: [each] for text, each in wrong.items()}


def test_every_legend_and_text_names_a_label(metrics: dict[str, set[str]]):
    legends = [(each["expr"], each["legendFormat"]) for panel in PANELS for each in panel["targets"]]
    texts = [(rule["expr"], " ".join(rule["annotations"].values())) for rule in ALERTS]
    for expression, text in legends + texts:
        shown = {label for each in references(expression) for label in metrics.get(each.metric, ())}
        assert set(re.findall(r"\{\{(?: \$labels\.)?(\w+) ?\}\}", text)) <= shown | {"uuid"}, text


def test_every_alert_has_a_text_a_page_to_read_and_a_test():
    tested = re.findall(r"alertname: (\w+)", (PROMETHEUS / "rules_test.yml").read_text())
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert listed == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("critical", "warning", "info")
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert rule["alert"] in tested


def test_prometheus_reads_these_rules_and_a_key_from_a_file():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert all((PROMETHEUS / name).exists() for name in config["rule_files"])
    (job,) = config["scrape_configs"]
    assert job["job_name"] in ALERTS[0]["expr"]
    assert job["authorization"] == job["http_sd_configs"][0]["authorization"] == {"credentials_file": "key"}


def test_the_dashboard_can_be_imported_anywhere():
    assert VARIABLES[0]["type"] == "datasource"
    sources = [each["datasource"] for panel in PANELS for each in (panel, *panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    used = set(re.findall(r"\$(\w+)", " ".join(text for _, text in board_expressions()))) - {"__rate_interval", "1"}
    assert used == {variable["name"] for variable in VARIABLES[1:]}


def test_no_panel_covers_another():
    for one, other in combinations([panel["gridPos"] for panel in BOARD["panels"]], 2):
        apart = any(
            first[start] + first[size] <= second[start]
            for first, second in ((one, other), (other, one))
            for start, size in (("x", "w"), ("y", "h"))
        )
        assert apart and one["x"] + one["w"] <= 24, (one, other)
