"""Which changed settings a running service applies, and which wait for its restart."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from app.settings.configuration import ConfigurationError
from app.settings.reload import applicable_settings, changed_keys, pending_restart, restart_places
from app.settings.schema import Settings

KEYS = [{"name": "alice", "sha256": hashlib.sha256(b"alice").hexdigest()}]


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLAMA_SMART_PROXY_CONFIG", raising=False)


def settings(**sections: Any) -> Settings:
    return Settings(**sections)


def test_keys_that_need_a_restart_keep_their_running_values_and_are_named():
    running = settings(scheduling={"ttl_seconds": 10})
    new = settings(
        server={"port": 9000}, gpu={"enabled": False, "strategy": "spread"}, engine={"binary": "/x", "args": ["-v"]}
    )
    applied = applicable_settings(new, running)
    assert (applied.server.port, applied.gpu.enabled, applied.engine.binary) == (8080, True, "auto")
    assert (applied.gpu.strategy, applied.engine.args, applied.scheduling.ttl_seconds) == ("spread", ["-v"], 900)
    assert pending_restart(new, running) == ("server.port", "engine.binary", "gpu.enabled")
    assert changed_keys(running, applied) == ("engine.args", "gpu.strategy", "scheduling.ttl_seconds")
    assert pending_restart(settings(), applied) == ()


def test_every_key_of_the_server_and_nothing_of_the_models_needs_a_restart():
    places = set(restart_places())
    assert {("server", key) for key in ("host", "port", "threads", "drain_seconds", "allow_open")} <= places
    assert {place[0] for place in places} == {"server", "engine", "gpu"}
    assert {place[1] for place in places if place[0] != "server"} == {
        *("binary", "env", "assume_gpu", "enabled", "poll_seconds")
    }


@pytest.mark.parametrize("new", [{}, {"server": {"host": "127.0.0.1"}}, {"server": {"allow_open": True}}])
def test_a_service_that_others_reach_never_loses_its_last_key(new: dict[str, Any]):
    """The new file may be valid by itself: its address, or allow_open, takes effect at the next start only."""
    running = settings(server={"host": "0.0.0.0"}, keys=KEYS)
    with pytest.raises(ConfigurationError, match=r"server\.host is 0\.0\.0\.0.*next start"):
        applicable_settings(settings(**new), running)
    assert applicable_settings(settings(keys=KEYS), running).server.host == "0.0.0.0"


def test_a_service_on_loopback_or_with_allow_open_may_lose_its_keys():
    for server in ({"host": "127.0.0.1"}, {"host": "0.0.0.0", "allow_open": True}):
        assert applicable_settings(settings(), settings(server=server, keys=KEYS)).keys == []


def test_the_default_of_max_waiting_follows_the_running_threads():
    running, fewer = settings(), settings(server={"threads": 64})
    assert fewer.scheduling.max_waiting == 47
    assert applicable_settings(fewer, running).scheduling.max_waiting == 256
    assert changed_keys(running, applicable_settings(fewer, running)) == ()
    assert applicable_settings(running, fewer).scheduling.max_waiting == 47


def test_changed_keys_name_models_by_key_and_never_a_value():
    before = settings(models={"a": {"path": "a.gguf", "env": {"TOKEN": "secret1"}}, "b": {"path": "b.gguf"}})
    after = settings(models={"a": {"path": "a.gguf", "env": {"TOKEN": "secret2"}, "pin": True}, "c": {}}, keys=KEYS)
    assert changed_keys(before, after) == ("keys", "models.a.pin", "models.a.env.TOKEN", "models.b", "models.c")
