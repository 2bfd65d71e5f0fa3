"""The metrics of a key that is limited to some models."""

from __future__ import annotations

from tests.helpers.builders import Play, a_model
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore


def test_a_limited_page_has_the_series_of_its_models_and_of_the_machine():
    play = Play()
    for name in ("mine", "secret"):
        play.ask(a_model(name))
    gauges = Gauges(StateStore(play.state), "1")
    for name in ("mine", "secret", "_unknown"):
        gauges.answered("/v1/completions", name, 200, 0.1, 5, 7)
        gauges.first_byte(name, 0.1, 0.0)
    whole, limited = (gauges.render("", models)[0].decode() for models in (None, {"mine"}))
    assert 'model="secret"' in whole and "requests_in_flight" in whole
    assert "secret" not in limited and "_unknown" not in limited
    for name in ("requests_in_flight", "decisions", "requests_rejected"):
        assert f"llama_smart_proxy_{name}" not in limited, "of all models together"
    kept = [line for line in limited.splitlines() if not line.startswith("#")]
    assert kept and all(line in whole for line in kept if "process_" not in line)
    for text in ('llama_smart_proxy_tokens_total{kind="prompt",model="mine"} 5', "build_info", "nvml_state"):
        assert text in limited
