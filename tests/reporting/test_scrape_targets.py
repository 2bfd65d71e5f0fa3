"""What Prometheus is told to scrape."""

from __future__ import annotations

from app.use_cases.reporting.scrape_targets import scrape_targets
from tests.helpers.builders import Play, a_model


def test_the_service_and_loaded_models_are_targets_and_a_loading_one_is_none():
    play = Play()
    play.up(a_model("user/loaded:Q4"))
    play.ask(a_model("loading"))
    service, engine = scrape_targets("[::1]:8080", play.state.servers)
    assert service == {
        "targets": ["[::1]:8080"],
        "labels": {"__metrics_path__": "/metrics", "__meta_llama_smart_proxy_kind": "service"},
    }
    assert engine["targets"] == ["[::1]:8080"]
    assert engine["labels"] == {
        "__metrics_path__": "/metrics",
        "__param_model": "user/loaded:Q4",
        "model": "user/loaded:Q4",
        "__meta_llama_smart_proxy_kind": "engine",
    }
