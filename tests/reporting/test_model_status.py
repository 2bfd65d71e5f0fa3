"""A model's state, as llama.cpp's router and llama-swap write it."""

from __future__ import annotations

import itertools

from app.entities.launch import EngineFacts, EngineKind, EngineState
from app.use_cases.reporting.model_status import model_status, running, status_events
from app.use_cases.scheduling import events as ev
from tests.helpers.builders import Play, a_model, replace

ENGINE = EngineFacts(EngineKind.BINARY, ("/opt/llama-server",), "b1", "id", frozenset())


def test_a_load_is_seen_step_by_step():
    play = Play()
    states = [play.state]
    play.ask(a_model("a"))
    for event in (ev.Progress(1, 0.5, 0.25), ev.Ready(1, 9001, 1.0), ev.Exited(1, "killed", 2.0, exit_code=-9)):
        states.append(play.state)
        play.post(event)
    states.append(play.state)
    data = [event["data"] for before, after in itertools.pairwise(states)
            for event in status_events(before, after)]  # fmt: skip
    assert data == [
        {"status": "loading"},
        {"status": "loading", "progress": {"stages": ["text_model"], "current": "text_model", "value": 0.25}},
        {"status": "loaded"},
        {"status": "unloaded"},
    ]


def test_a_load_that_fails_has_its_exit_code():
    play = Play()
    play.ask(a_model("a"))
    loading = play.state
    play.post(ev.Exited(1, "no such tensor", 1.0, exit_code=1))
    (event,) = status_events(loading, play.state)
    assert event["data"] == {"status": "unloaded", "failed": True, "exit_code": 1}
    status = model_status(a_model("a"), None, play.state, None)
    assert status == {"value": "unloaded", "failed": True, "message": "no such tensor", "exit_code": 1}


def test_what_no_event_tells_makes_none():
    play = Play()
    play.up(a_model("a"))
    before = play.state
    play.ask(a_model("a"), at=1.0)
    assert status_events(before, play.state) == []


def test_events_name_model_and_kind():
    play = Play()
    before = play.state
    play.ask(a_model("a"))
    assert status_events(before, play.state) == [{"model": "a", "event": "model_status", "data": {"status": "loading"}}]


def test_command_lines_are_for_those_who_may_see_the_engine():
    play = Play()
    play.up(a_model("a"))
    (server,) = play.state.servers
    hidden = model_status(server.model, server, play.state, None)
    shown = model_status(server.model, server, play.state, ENGINE)
    assert "args" not in hidden
    args = shown["args"]
    assert isinstance(args, list)
    assert (args[0], args[args.index("--port") + 1]) == ("/opt/llama-server", str(server.port))


def test_running_servers_have_llama_swaps_fields():
    play = Play()
    play.up(replace(a_model("a"), ttl_seconds=60.0))
    play.ask(a_model("b"), at=1.0)
    known = running(play.state.servers, lambda model: EngineState(ENGINE), 900.0)
    hidden = running(play.state.servers, lambda model: None, 900.0)
    (one, other) = known["running"]  # type: ignore[misc]
    assert [(each["model"], each["state"], each["ttl"]) for each in (one, other)] == [
        ("a", "ready", 60),
        ("b", "starting", 900),
    ]
    assert one["cmd"].startswith("/opt/llama-server ")
    assert one["proxy"] == f"http://127.0.0.1:{play.state.servers[0].port}"
    assert other["proxy"] == ""
    assert {(each["cmd"], each["proxy"]) for each in hidden["running"]} == {("", "")}  # type: ignore[attr-defined]
