"""GET /status: the one account of the service that page, `ps` and `top` show."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.engine_load import Drafts, EngineLoad
from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import Decision, Outcome
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.report import ON_CPU
from app.use_cases.reporting.service_status import StatusFacts, service_status
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import GIB, Play, a_model, booked, memory, replace
from tests.helpers.gpu_play import GpuPlay, Hardware

NOON = 1_700_000_000.0  # Unix seconds when the monotonic clock shows 0


def status(pool: PoolState, now: float, **changes: Any) -> dict[str, Any]:
    facts = StatusFacts(
        pool=pool,
        visible=pool,
        memory=pool.memory,
        decisions=(),
        records=(),
        loads={},
        drafts={},
        hour=(),
        downloads=(),
        peers=(),
        reasons=(),
        engine=None,
        version="1",
        sees_all=True,
        is_admin=True,
        sees_paths=True,
        may_pull=True,
        uptime_seconds=now,
        now=now,
        at=NOON + now,
    )
    return service_status(replace(facts, **changes))


def test_a_server_says_how_much_of_its_drafts_was_accepted():
    play = Play()
    one = play.up(a_model("a"))
    shown = status(play.state, 1.0, drafts={one: Drafts(23300, 15100)})["servers"][0]["drafts"]
    assert shown == {"tokens": 23300, "accepted_tokens": 15100, "accepted_percent": 65}
    assert status(play.state, 1.0)["servers"][0]["drafts"] is None


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


@pytest.mark.parametrize(("state", "problem"), [(GpuState.DISABLED, ""), (GpuState.OK, ON_CPU)])
def test_a_model_on_the_cpu_is_a_problem_where_a_gpu_could_be_used(state: GpuState, problem: str):
    play = Play()
    play.up(a_model("a"))
    servers = tuple(replace(s, gpu_problem="no GPU") for s in play.state.servers)
    snapshot = GpuSnapshot(state, 0.0, (Gpu("GPU-a", 0, "card"),) if state is GpuState.OK else ())
    assert server(replace(play.state, servers=servers, gpus=snapshot), 1.0)["problem"] == problem


def test_the_speed_of_a_busy_server_is_what_its_engine_reports_and_an_idle_one_does_nothing():
    play = Play()
    for name in ("busy", "unread", "idle"):
        play.up(a_model(name))
    play.ask(a_model("busy"), at=1.0)
    play.ask(a_model("unread"), at=1.0)
    shown = status(play.state, 2.0, loads={1: EngineLoad(500, 0.0, 58.0), 3: EngineLoad(900, 1.0, 40.0)})["servers"]
    keys = ("context_used_tokens", "prompt_tokens_per_second", "tokens_per_second")
    assert [tuple(each[key] for key in keys) for each in shown] == [(500, 0.0, 58.0), (None,) * 3, (0, 0.0, 0.0)]


def test_the_last_decisions_are_for_admins_the_newest_first():
    decision = Decision(Outcome.REFUSE, "needs 61 GiB, the GPUs have 47", 61 * GIB)
    records = tuple(DecisionRecord(NOON + n, "a", decision, (), 0.1, 0.2) for n in range(30))
    shown = [status(PoolState(), 1.0, is_admin=is_admin, decisions=records) for is_admin in (True, False)]
    assert [each["at"] for each in shown[0]["decisions"]] == [NOON + n for n in range(29, 9, -1)]
    assert "needs 61 GiB" in shown[0]["decisions"][0]["text"]
    assert (shown[1]["admin"], shown[1]["decisions"]) == (False, [])


def test_other_processes_are_for_those_who_see_every_model():
    """The llama-servers of hidden models are among the processes of a GPU."""
    play = GpuPlay(Hardware({"GPU-a": 24.0}))
    play.loaded("a")
    play.post(play.polled(1.0))
    (gpu,) = play.state.gpus.gpus
    busy = replace(gpu, processes={**(gpu.processes or {}), 7: 100})
    pool = replace(play.state, gpus=replace(play.state.gpus, gpus=(busy,)))
    shown = [status(pool, 1.0, sees_all=sees_all)["gpus"][0]["other_processes"] for sees_all in (True, False)]
    assert shown == [[{"pid": 7, "name": None, "bytes": 100}], []]


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


def test_ram_is_shown_as_it_is_now_with_what_is_booked_of_it():
    play = Play()
    play.up(a_model("a", gib=1.0))
    now = memory(at=9.0, available_gib=3.0, total_gib=16.0)
    assert status(play.state, 9.0, memory=now)["ram"] == {
        "total_bytes": 16 * GIB,
        "available_bytes": 3 * GIB,
        "booked_bytes": booked(a_model("a", gib=1.0)),
    }


def test_before_the_first_reading_nothing_is_known():
    shown = status(PoolState(), 0.0)
    assert (shown["gpus"], shown["gpus_age_seconds"], shown["ram"], shown["engine"]) == ([], None, None, None)
