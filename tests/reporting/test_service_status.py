"""GET /status: the one account of the service that page, `ps` and `top` show."""

from __future__ import annotations

from typing import Any

from app.use_cases.reporting.service_status import StatusFacts, service_status
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import Play, a_model, replace
from tests.helpers.gpu_play import GpuPlay, Hardware

NOON = 1_700_000_000.0  # Unix seconds when the monotonic clock shows 0


def status(pool: PoolState, now: float, **changes: Any) -> dict[str, Any]:
    facts = StatusFacts(
        pool, pool, (), (), {}, (), (), None, "1", True, True, uptime_seconds=now, now=now, at=NOON + now
    )
    return service_status(replace(facts, **changes))


def server(pool: PoolState, now: float) -> dict[str, Any]:
    (found,) = status(pool, now)["servers"]
    return dict(found)


def test_a_server_is_followed_from_its_start_to_its_last_idle_second():
    play = Play()
    play.ask(a_model("a"), at=1.0)
    play.post(ev.Spawned(1, 4711, 1.0), ev.Progress(1, 2.0, 0.25))
    loading = server(play.state, 3.0)
    play.post(ev.Ready(1, 9001, 5.0))
    busy = server(play.state, 6.0)
    play.post(ev.Release(1, 10.0))
    idle = server(play.state, 20.0)
    keys = ("state", "pid", "progress", "requests", "slots_busy", "idle_seconds", "unloads_in_seconds", "load_seconds")
    assert [tuple(each[key] for key in keys) for each in (loading, busy, idle)] == [
        ("starting", 4711, 0.25, 0, 0, 0.0, None, None),
        ("ready", 4711, None, 1, 1, 0.0, None, 4.0),
        ("ready", 4711, None, 0, 0, 10.0, play.state.limits.ttl_seconds - 10.0, 4.0),
    ]
    assert {each["started_at"] for each in (loading, busy, idle)} == {NOON + 1.0}


def test_a_pinned_model_is_never_unloaded():
    play = Play()
    play.up(replace(a_model("a"), pin=True))
    shown = server(play.state, 5.0)
    assert (shown["pinned"], shown["unloads_in_seconds"], shown["idle_seconds"]) == (True, None, 5.0)


def test_a_server_that_hangs_says_so():
    play = Play()
    play.up(a_model("a"))
    hung = replace(play.state, servers=tuple(replace(s, unresponsive_since=10.0) for s in play.state.servers))
    assert server(hung, 40.0)["problem"] == "its llama-server (server 1) has not responded for 30 s"


def test_decisions_are_for_admins():
    play = Play()
    play.ask(a_model("a"))
    assert status(play.state, 1.0, is_admin=False)["decisions"] == []
    assert status(play.state, 1.0, is_admin=False)["admin"] is False


def test_gpus_that_do_not_answer_are_shown_with_their_age():
    play = GpuPlay(Hardware({"GPU-a": 24.0}))
    play.post(play.polled(0.0))
    shown = status(play.state, 100.0)
    assert (shown["gpus_state"], shown["gpus_age_seconds"]) == ("hung", 100.0)
    assert [gpu["uuid"] for gpu in shown["gpus"]] == ["GPU-a"]


def test_a_gpu_that_is_set_aside_is_missing_with_its_reason():
    play = GpuPlay(Hardware({"GPU-a": 24.0, "GPU-b": 24.0}))
    play.post(play.polled(0.0))
    pool = replace(play.state, gpus=play.state.gpus.without({"GPU-b": "two loads failed"}))
    shown = status(pool, 0.5)
    assert [gpu["uuid"] for gpu in shown["gpus"]] == ["GPU-a"]
    assert shown["missing_gpus"] == [{"index": 1, "name": "card", "uuid": "GPU-b", "problem": "two loads failed"}]


def test_before_the_first_reading_nothing_is_known():
    shown = status(PoolState(), 0.0)
    assert (shown["gpus"], shown["gpus_age_seconds"], shown["ram"], shown["engine"]) == ([], None, None, None)
