"""GET /status/stream: events for as long as somebody looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.entities.configuration import ConfigurationState
from app.entities.key import ApiKey
from app.errors import Overloaded
from app.routes import status_stream
from app.routes.incoming_request import IncomingRequest
from app.routes.open_stream import OpenStream
from app.routes.status_stream import status_updates
from app.services import RequestSettings
from app.use_cases.reporting.recent_requests import RequestRecord
from tests.helpers.builders import Play, a_model, memory, replace
from tests.helpers.connected_client import ConnectedClient
from tests.helpers.scripted_peers import NO_PEERS
from workers.clients.admission import admission_limits
from workers.clients.audience_texts import AudienceTexts
from workers.telemetry.activity import Activity


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "MIN_AGE_SECONDS"):
        monkeypatch.setattr(status_stream, name, 0.0)


def some_services(places: int = 16) -> Any:
    pool = Play().state
    return SimpleNamespace(
        settings=RequestSettings(),
        store=SimpleNamespace(pool=pool, gpus=pool.gpus, decisions=(), pins=(), configuration=ConfigurationState(0.0)),
        catalog=SimpleNamespace(models=list),
        **admission_limits(places),
        clients=SimpleNamespace(watch=lambda socket: ConnectedClient()),
        status_texts=AudienceTexts(),
        activity=Activity(),
        downloads=SimpleNamespace(all=()),
        peers=NO_PEERS,
        engine_slots=SimpleNamespace(loads={}, drafts={}, view=lambda: None),
        engine=None,
        engine_problem="",
        own_engines={},
        version="1",
        started_at=0.0,
        read_ram=lambda: memory(0.0),
    )


def begun(services: Any, key: ApiKey | None = None) -> tuple[OpenStream, Iterator[dict[str, Any]]]:
    request = IncomingRequest({"REQUEST_METHOD": "GET"}, services, "")
    request.key = key
    place = OpenStream(request, services.viewers)
    chunks = status_updates(request, place)
    return place, (json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks)


def served(*names: str) -> Any:
    play = Play()
    for name in names:
        play.up(a_model(name))
    return play.state


def names(event: dict[str, Any]) -> list[str]:
    return [server["model"] for server in event["servers"]]


def test_the_first_event_comes_at_once_and_then_one_for_each_change():
    services = some_services()
    _, events = begun(services)
    assert names(next(events)) == []
    services.store.pool = served("a")
    assert names(next(events)) == ["a"]


def test_a_status_that_has_not_changed_is_sent_when_it_is_old(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(status_stream, "MAX_AGE_SECONDS", 0.0)
    _, events = begun(some_services())
    first, second = next(events), next(events)
    assert second["at"] >= first["at"]


def test_a_viewer_sees_the_models_of_its_key_alone():
    services = some_services()
    services.store.pool = served("a", "b")
    _, narrow = begun(services, ApiKey("narrow", "", models=("b*",)))
    _, wide = begun(services, ApiKey("wide", ""))
    _, other = begun(services, ApiKey("other", "", models=("a",), admin=True))
    assert [names(next(each)) for each in (narrow, wide, other)] == [["b"], ["a", "b"], ["a"]]


def test_a_viewer_sees_the_requests_to_the_models_of_its_key_alone():
    services = some_services()
    services.catalog.models = lambda: [a_model("a"), a_model("b")]
    for model in ("a", "b", None):
        record = RequestRecord(1.0, model, "/v1/completions", 200, 0.0, 1.0, 0.5, 10, 20, 40.0, "alice")
        services.activity.note(record)
    _, narrow = begun(services, ApiKey("narrow", "", models=("b",)))
    _, admin = begun(services)
    shown, all_shown = next(narrow), next(admin)
    assert [(each["model"], each["key"]) for each in shown["requests"]] == [("b", None)]
    assert [(each["model"], each["key"]) for each in all_shown["requests"]] == [(m, "alice") for m in (None, "b", "a")]
    assert (shown["last_hour"]["requests"], all_shown["last_hour"]["requests"]) == (1, 3)


def test_all_viewers_with_the_same_rights_get_the_same_text():
    services = some_services()
    made = [next(begun(services, key)[1]) for key in (None, None, ApiKey("admin", "", admin=True))]
    assert made[0] == made[1] == made[2]
    assert next(begun(services, ApiKey("user", ""))[1])["admin"] is False


def test_a_stream_ends_at_a_drain_a_disconnect_and_a_reload():
    for number in range(3):
        services = some_services()
        place, events = begun(services)
        next(events)
        if number == 0:
            services.store.pool = replace(services.store.pool, draining=True)
        elif number == 1:
            place.client.is_disconnected = True  # type: ignore[misc]
        else:
            services.settings = RequestSettings()
        assert list(events) == []


def test_streams_are_limited_and_give_back_their_places():
    services = some_services(places=8)
    places = [begun(services)[0] for _ in range(2)]
    with pytest.raises(Overloaded):
        begun(services)
    places[0].close()
    begun(services)
    assert services.admission._running == 2


def test_a_service_that_is_full_of_inference_refuses_viewers():
    services = some_services(places=8)
    for _ in range(8):
        services.admission.acquire()
    with pytest.raises(Overloaded):
        begun(services)
    assert services.viewers._running == 0
