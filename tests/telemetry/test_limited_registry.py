"""The metrics of a key that is limited to some models."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.builders import Play, a_model
from workers.telemetry.gauges import Gauges
from workers.telemetry.key_gauges import KeyGauges
from workers.telemetry.store import StateStore


def samples(page: str) -> set[tuple[object, ...]]:
    families = text_string_to_metric_families(page)
    return {(each.name, *each.labels.items(), each.value) for family in families for each in family.samples}


def test_a_limited_page_has_the_series_of_its_models_and_of_the_machine():
    play = Play()
    for name in ("mine", "secret"):
        play.ask(a_model(name))
    gauges = Gauges(StateStore(play.state), "1")
    for name in ("mine", "secret", "_unknown"):
        gauges.answered("/v1/completions", name, 200, 0.1, 5, 7, "")
        gauges.first_byte(name, 0.1, 0.0)
    whole, limited = (gauges.render("", models)[0].decode() for models in (None, {"mine"}))
    assert 'model="secret"' in whole and "requests_in_flight" in whole
    assert "secret" not in limited and "_unknown" not in limited
    for name in ("requests_in_flight", "decisions", "requests_rejected"):
        assert f"llama_smart_proxy_{name}" not in limited, "of all models together"
    kept = {each for each in samples(limited) if not each[0].startswith("process_")}
    assert kept and kept <= samples(whole)
    for text in ('llama_smart_proxy_tokens_total{kind="prompt",model="mine"} 5', "build_info", "nvml_state"):
        assert text in limited


def test_a_limited_page_has_of_keys_only_its_own():
    gauges = Gauges(StateStore(Play().state), "1")
    gauges.add(KeyGauges(lambda: {"own": 12, "other": 34}))
    for key in ("own", "other"):
        gauges.answered("/v1/completions", "mine", 200, 0.1, 5, 7, key)
    gauges.answered("/v1/completions", "secret", 200, 0.1, 5, 7, "own")
    whole, limited = (gauges.render("", models, "own")[0].decode() for models in (None, {"mine"}))
    assert 'key="other"' in whole
    assert "other" not in limited and "secret" not in limited
    for text in ('key_tokens_today{key="own"} 12.0', 'key_tokens_total{key="own",kind="prompt",model="mine"} 5.0'):
        assert f"llama_smart_proxy_{text}" in limited


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            False,
        ),  # Prometheus
        ("", False),
        ("application/openmetrics-text; version=1.0.0", True),
    ],
)
def test_only_who_accepts_nothing_else_gets_openmetrics(accept: str, is_open: bool):
    page, content_type = Gauges(StateStore(Play().state), "1").render(accept)
    assert ("openmetrics" in content_type) == page.endswith(b"# EOF\n") == is_open
