"""/logs and its streams: forms, history first, skipped lines, who may read what, and what a stream holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from app.entities.key import ApiKey
from app.entities.log_line import SERVICE
from app.errors import InvalidRequest, ModelNotFound, NotAllowed, Overloaded
from app.routes import open_stream
from app.routes.incoming_request import IncomingRequest
from app.routes.logs import EVENTS, show_logs, stream_engine_log, stream_service_log
from app.services import EXTENSION, RequestSettings
from tests.helpers.builders import Play, a_model
from tests.helpers.connected_client import ConnectedClient
from tests.helpers.scripted_peers import NO_PEERS
from workers.clients.admission import AdmissionLimit, admission_limits
from workers.logs import history as history_module
from workers.logs.history import LINE_OVERHEAD_BYTES, LogHistory

MODELS = {name: a_model(name) for name in ("a/b:Q4", "c")}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_stream, "POLL_SECONDS", 0.0)


@pytest.fixture
def services() -> Any:
    history = LogHistory()
    history.add("a/b:Q4", "3", ["one", "two"], 1_700_000_000.25)
    history.add(SERVICE, "", ["INFO [MainThread] x: hello"], 1_700_000_001.0)
    return SimpleNamespace(
        settings=RequestSettings(),
        store=SimpleNamespace(pool=Play().state),
        admission=AdmissionLimit(8),
        viewers=admission_limits(8)["viewers"],
        peers=NO_PEERS,
        clients=SimpleNamespace(watch=lambda socket: ConnectedClient()),
        catalog=SimpleNamespace(
            members=lambda name: (),
            find=lambda name, may_use: MODELS[name],
            rescan=lambda: None,
            models=MODELS.values,
            virtual_names=(),
        ),
        logs=history,
    )


def answered(services: Any, call: Any, query: str = "", key: ApiKey | None = None, accept: str = "") -> Any:
    app = Flask("test")
    app.extensions[EXTENSION] = services
    with app.test_request_context("/logs", query_string=query, headers={"Accept": accept}) as context:
        request = IncomingRequest(context.request.environ, services, "")
        request.key = key
        from flask import g

        g.current_request = request
        return call()


def chunks(response: Any) -> Iterator[str]:
    return (chunk.decode() for chunk in response.response)


def test_all_lines_are_text_by_time_or_json(services: Any):
    text = answered(services, show_logs).get_data(as_text=True)
    assert [line[19:] for line in text.splitlines()] == [
        ".250 a/b:Q4[3] one",
        ".250 a/b:Q4[3] two",
        ".000 service INFO [MainThread] x: hello",
    ]
    body = answered(services, show_logs, "format=json&lines=2").get_json()
    assert body == {
        "lines": [
            {"at": 1_700_000_000.25, "source": "a/b:Q4", "server": "3", "text": "two"},
            {"at": 1_700_000_001.0, "source": "service", "server": None, "text": "INFO [MainThread] x: hello"},
        ]
    }
    assert answered(services, show_logs, "model=a/b:Q4&lines=1").get_data(as_text=True).endswith("] two\n")
    with pytest.raises(InvalidRequest):
        answered(services, show_logs, "lines=-1")


def test_a_stream_has_the_history_and_then_what_is_added(services: Any):
    response = answered(services, lambda: stream_engine_log("a/b:Q4"), "lines=1")
    assert (response.content_type, response.headers["X-Accel-Buffering"]) == ("text/plain; charset=utf-8", "no")
    text = chunks(response)
    assert next(text).endswith("a/b:Q4[3] two\n")
    services.logs.add("c", "4", ["another model's"], 0.0)
    services.logs.add("a/b:Q4", "5", ["loaded again"], 0.0)
    assert next(text).endswith("a/b:Q4[5] loaded again\n")
    assert next(chunks(answered(services, lambda: stream_engine_log("a/b:Q4"), "no-history"))) == ""


def test_an_event_stream_has_a_line_in_each_event(services: Any):
    response = answered(services, stream_service_log, accept=EVENTS)
    assert response.content_type == EVENTS
    event = next(chunks(response))
    assert event.endswith("\n\n") and json.loads(event.removeprefix("data: "))["text"].endswith("hello")
    assert next(chunks(answered(services, lambda: stream_engine_log("c"), accept=EVENTS))) == ": no lines yet\n\n"


def test_a_slow_reader_skips_lines_and_is_told_how_many(services: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history_module, "SOURCE_BYTES", 100 * (LINE_OVERHEAD_BYTES + 1))
    for accept, begin in (("", "(900 lines skipped)\n"), (EVENTS, 'event: skipped\ndata: {"lines": 900}\n\n')):
        text = chunks(answered(services, lambda: stream_engine_log("c"), "lines=0", accept=accept))
        next(text)
        services.logs.add("c", "1", ["x"] * 1000, 0.0)
        assert next(text).startswith(begin)


def test_a_limited_admin_reads_the_logs_of_its_models_only(services: Any):
    key = ApiKey("team", "", models=("a/*",), admin=True)
    for call in (show_logs, stream_service_log):
        with pytest.raises(NotAllowed):
            answered(services, call, key=key)
    assert answered(services, show_logs, "model=a/b:Q4", key=key).get_data()
    for call, query in ((show_logs, "model=c"), (lambda: stream_engine_log("c"), "")):
        with pytest.raises(ModelNotFound):
            answered(services, call, query, key=key)


def test_a_stream_ends_at_a_drain_a_disconnect_and_a_reload(services: Any, monkeypatch: pytest.MonkeyPatch):
    def drain() -> None:
        services.store.pool = replace(services.store.pool, draining=True)

    def reload() -> None:
        services.settings = RequestSettings()

    def disconnect() -> None:
        monkeypatch.setattr(ConnectedClient, "is_disconnected", True)

    for end in (reload, drain, disconnect):
        services.store.pool = replace(services.store.pool, draining=False)
        response = answered(services, stream_service_log)
        text = chunks(response)
        next(text)
        end()
        assert list(text) == []
        response.close()


def test_viewers_are_limited_and_give_back_their_places(services: Any):
    responses = [answered(services, stream_service_log) for _ in range(2)]
    with pytest.raises(Overloaded, match="streams of the status, of logs"):
        answered(services, stream_service_log)
    responses[0].close()
    answered(services, stream_service_log)
