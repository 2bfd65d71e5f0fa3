"""/models/sse: when a stream ends, and that it gives back what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.entities.download import Download, DownloadState
from app.entities.key import ApiKey
from app.errors import Overloaded
from app.routes import open_stream
from app.routes.incoming_request import IncomingRequest
from app.routes.model_events import EventStream
from app.services import RequestSettings
from tests.helpers.builders import Play, a_model, replace
from tests.helpers.connected_client import ConnectedClient
from tests.helpers.scripted_peers import NO_PEERS
from workers.clients.admission import admission_limits


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_stream, "POLL_SECONDS", 0.0)


def a_request(places: int = 8, key: ApiKey | None = None) -> Any:
    services: Any = SimpleNamespace(
        settings=RequestSettings(),
        store=SimpleNamespace(pool=Play().state),
        downloads=SimpleNamespace(all=()),
        peers=NO_PEERS,
        catalog=SimpleNamespace(models=list),
        **admission_limits(places),
        clients=SimpleNamespace(watch=lambda socket: ConnectedClient()),
    )
    request = IncomingRequest({"REQUEST_METHOD": "GET"}, services, "")
    request.key = key
    return request


def begun(request: Any) -> tuple[EventStream, Iterator[bytes]]:
    stream = EventStream(request)
    chunks = stream.chunks()
    assert next(chunks).startswith(b": ")
    return stream, chunks


def test_a_change_is_an_event(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_stream, "SIGN_OF_LIFE_SECONDS", 0.0)
    request = a_request()
    _, chunks = begun(request)
    assert next(chunks).startswith(b": "), "the first event comes after the stream has begun to watch"
    play = Play()
    play.ask(a_model("a"))
    request.services.store.pool = play.state
    assert next(chunks) == b'data: {"model": "a", "event": "model_status", "data": {"status": "loading"}}\n\n'


def test_a_key_gets_no_events_of_models_that_it_may_not_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_stream, "SIGN_OF_LIFE_SECONDS", 0.0)
    request = a_request(key=ApiKey("limited", "", models=("b*",)))
    _, chunks = begun(request)
    next(chunks)
    play = Play()
    for name in ("a", "b"):
        play.ask(a_model(name))
    request.services.store.pool = play.state
    assert b'"model": "b"' in (chunk := next(chunks))
    assert b'"a"' not in chunk


def test_a_stream_ends_at_a_drain_a_disconnect_and_a_reload():
    for number in range(3):
        request = a_request()
        stream, chunks = begun(request)
        if number == 0:
            request.services.store.pool = replace(request.services.store.pool, draining=True)
        elif number == 1:
            stream._place.client.is_disconnected = True  # type: ignore[misc]
        else:
            request.services.settings = RequestSettings()
        assert list(chunks) == []


def test_streams_are_limited_and_leave_inference_its_places():
    request = a_request(places=8)
    streams = [EventStream(request) for _ in range(2)]
    with pytest.raises(Overloaded, match="streams of /models/sse"):
        EventStream(request)
    streams[0].close()
    EventStream(request).close()
    for _ in range(7):  # one stream is left
        request.services.admission.acquire()
    with pytest.raises(Overloaded, match="inference requests"):
        EventStream(request)
    streams[1].close()
    EventStream(request).close()


def test_downloads_are_events_for_the_keys_that_may_use_their_models(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_stream, "SIGN_OF_LIFE_SECONDS", 0.0)
    half = Download("u/b:Q8_0", DownloadState.DOWNLOADING, 1.0, total_bytes=8, done_bytes=4)
    request, other = a_request(key=ApiKey("b", "", models=("u/b*",))), a_request(key=ApiKey("c", "", models=("c*",)))
    (_, chunks), (_, others) = begun(request), begun(other)
    next(chunks)
    found = []
    for state in (half, replace(half, state=DownloadState.COMPLETE), replace(half, state=DownloadState.CANCELED)):
        request.services.downloads.all = other.services.downloads.all = (state,)
        found += [json.loads(line.removeprefix("data: ")) for line in next(chunks).decode().split("\n\n")[:-1]]
        assert next(others).startswith(b": ")
    assert [(each["event"], each["data"]) for each in found] == [
        ("model_status", {"status": "downloading"}),
        ("download_progress", {"progress": {"u/b:Q8_0": {"done": 4, "total": 8}}}),
        ("download_finished", {}),
        ("download_failed", {"message": "the download was canceled", "code": ""}),
    ]
