"""What reaches the engine: by which path and name, with which bytes, and what never does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from app.routes.inference import GET_ROUTES, POST_ROUTES
from tests.helpers.builders import a_gguf
from tests.helpers.service import Service, wait_for
from tests.service.test_faults import faulty

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its engine answers with what it was sent. A model with variables for the engine may be able to do anything."""
    models = '{"m": {"path": "m.gguf", "env": {"LLAMA_ARG_EMBEDDINGS": "1"}}}'
    with faulty(tmp_path_factory.mktemp("routes"), {"MODELS": models}, FAKE_ECHO=1, FAKE_PORT_ZERO=1) as running:
        yield running


def sent(service: Service, path: str, body: bytes = b'{"model": "m"}', method: str = "POST", **headers: str) -> Any:
    """What the engine got of a request."""
    answer = requests.request(method, service.url + path, data=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llama-smart-proxy-model"] == "m"
    return answer.json()


GOOD_BODIES = [
    b'{"model":"m"}',
    b'\r\n\t {"messages" : [],\n "model" :"m" }\n ',
    b'{"model": "m", "temperature": 0.10, "seed": 1e2, "big": 123456789012345678901234567890}',
    b'{"z": 1, "model": "m", "a": 2, "z": 3}',
    '{"model": "m", "content": "Füße 模型 \\u00e9 \\ud83e\\udd99 \\/"}'.encode(),
    b'{"mod\\u0065l": "\\u006d"}',
    b'{"model": " m "}',
    b'{"model": "m", "deep": ' + b"[" * 199 + b"]" * 199 + b"}",
    b'{"model": "m", "text": "' + b"[{" * 1000 + b'\\" model"}',
    b'{"model": "m", "n": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("body", GOOD_BODIES, ids=lambda body: body[:30].decode())
def test_a_good_body_reaches_the_engine_as_it_is(service: Service, body: bytes):
    assert sent(service, "/v1/chat/completions", body)["body"].encode("latin-1") == body


@pytest.mark.parametrize("path", POST_ROUTES)
def test_every_route_that_names_a_model_is_passed_on(service: Service, path: str):
    path = path.replace("<int:slot>", "0?action=erase")
    assert (got := sent(service, path))["path"] == path
    assert got["method"] == "POST"


@pytest.mark.parametrize("path", [*GET_ROUTES, "/props", "/metrics"])
def test_a_get_names_its_model_in_the_address(service: Service, path: str):
    sent(service, "/v1/completions")  # loads it
    got = sent(service, f"{path}?model=m&x=%C3%A9%26+1", b"", method="GET")
    assert (got["method"], got["path"]) == ("GET", f"{path}?model=m&x=%C3%A9%26+1")


def test_a_model_may_be_named_in_the_address_where_the_body_names_none(service: Service):
    got = sent(service, "/lora-adapters?model=m&x=1", b"")
    assert (got["path"], got["body"]) == ("/lora-adapters?model=m&x=1", "")
    assert sent(service, "/tokenize?model=m", b'{"content": "x"}')["body"] == '{"content": "x"}'


def test_the_list_that_lora_adapters_takes_has_its_model_in_the_address(service: Service):
    """It was refused as no object: the scales of adapters could not be set at all."""
    scales = b'[{"id": 0, "scale": 0.5, "model": "other"}]'
    assert sent(service, "/lora-adapters?model=m", scales)["body"] == scales.decode()
    assert service.post("/lora-adapters", [{"id": 0}]).status_code == 400


def test_a_form_is_routed_by_its_field_and_stays_as_it_is(service: Service):
    recording = bytes(range(256)) * 40 + b'--not-it\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n'
    form = requests.Request(
        "POST", service.url, files={"file": ("a.wav", recording, "audio/wav")}, data={"model": "m", "language": "de"}
    ).prepare()
    kind = form.headers["Content-Type"]
    got = sent(service, "/v1/audio/transcriptions", form.body, **{"Content-Type": kind})
    assert got["headers"]["content-type"] == kind
    assert got["body"].encode("latin-1") == form.body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_any_other_path_goes_to_the_model_that_its_body_names(service: Service, method: str):
    sent(service, "/v1/completions")
    got = sent(service, "/some/path of%20mine/é?a=b", method=method)
    assert (got["method"], got["path"]) == (method, "/some/path%20of%20mine/%C3%A9?a=b")


def test_any_other_path_loads_nothing(tmp_path: Path):
    """`/v1/images/generations` and the like loaded the model, and evicted another, before the engine's 404."""
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        for path in ("/v1/images/generations", "/v1/audio/speech", "/v1/moderations", "/v1/typo"):
            error = service.post(path, {"model": "m"}).json()["error"]
            assert (error["code"], "m is not loaded" in error["message"]) == ("not_found", True)
        with_body = requests.get(f"{service.url}/other", data=json.dumps({"model": "m"}), timeout=10)
        assert (with_body.status_code, with_body.json()["error"]["code"]) == (404, "not_found")
        not_loaded = service.post("/v1/completions?autoload=false", {"model": "m"})
        assert (not_loaded.status_code, not_loaded.json()["error"]["code"]) == (503, "model_unloaded")
        assert service.servers() == []
        assert "spawn server=" not in service.output


def test_with_load_on_any_path_any_path_loads(tmp_path: Path):
    with faulty(tmp_path, {"CATALOG__LOAD_ON_ANY_PATH": "true"}, FAKE_PORT_ZERO=1, FAKE_ECHO=1) as service:
        assert sent(service, "/api/some/path")["path"] == "/api/some/path"
        assert service.chat("m").status_code == 200


def test_a_path_that_no_engine_has_reaches_none(service: Service):
    sent(service, "/v1/completions")
    answer = service.post("/v1/v1/chat/completions", {"model": "m"})
    assert (answer.status_code, "already ends in /v1" in answer.json()["error"]["message"]) == (404, True)


def test_the_engine_gets_the_path_that_it_has(service: Service):
    for path in ("/v1/chat/completions/", "//v1/chat/completions", "/v1/tokenize", "/v1/infill/?x=1"):
        known = path.strip("/").replace("v1/tokenize", "tokenize").replace("v1/infill/", "infill")
        assert sent(service, path)["path"] == f"/{known}"
    assert sent(service, "/v1/props/?model=m", b"", method="GET")["path"] == "/props?model=m"


def test_other_paths_make_no_series(service: Service):
    sent(service, "/v1/completions")
    sent(service, "/some/path")
    wait_for(lambda: 'endpoint="_other",model="m"' in service.get("/metrics").text, 5)  # counted once it is sent
    assert "/some/path" not in service.get("/metrics").text


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_engine_gets_only_headers_it_should_and_its_own_key(service: Service):
    headers = {"Authorization": "Bearer mine", "Cookie": "a=b", "X-Api-Key": "mine", "X-Forwarded-For": "1.2.3.4",
            "Connection": "close, Cookie", "Traceparent": TRACE, "X-Request-Id": "r1", "Accept": "x/y",
            "X-Conversation-Id": "c", "Content-Type": "text/plain"}  # fmt: skip
    got = sent(service, "/v1/chat/completions", **headers)["headers"]
    assert not got.pop("authorization").endswith("mine")
    assert got.pop("host").startswith("127.0.0.1:")
    assert got == {
        "accept": "x/y",
        "content-length": "14",
        "content-type": "application/json",
        "traceparent": TRACE,
        "x-request-id": "r1",
    }


def test_a_get_loads_nothing_and_is_no_use_of_the_model(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__TTL_SECONDS": "1"}, FAKE_PORT_ZERO=1) as service:
        for path in ("/props?model=m", "/slots?model=m", "/metrics?model=m", "/lora-adapters?model=m"):
            answer = service.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unloaded")
            assert answer.headers["Retry-After"]
        assert service.servers() == []
        service.chat("m")
        wait_for(
            lambda: service.get("/slots?model=m").status_code == 503, 10
        )  # unloaded although it is requested all the time


def test_an_engine_that_refuses_a_body_it_has_not_read_is_heard(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1, FAKE_REFUSE_UNREAD=1) as service:
        body = b'{"model": "m", "x": "' + b"x" * (30 * 1024**2) + b'"}'
        answer = requests.post(f"{service.url}/v1/completions", data=body, timeout=30)
        assert (answer.status_code, answer.json()["error"]["message"]) == (413, "too large for me")
        assert "x-llama-smart-proxy-error" not in answer.headers


def test_props_without_a_model_tell_a_router(service: Service):
    props = service.get("/props").json()
    assert (props["role"], props["max_instances"], props["models_autoload"]) == ("router", 0, True)


def test_a_model_is_loaded_and_unloaded_on_order(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1, FAKE_LOAD_SECONDS=0.2) as service:
        for _ in range(2):
            assert service.post("/models/load", {"model": "m"}).json() == {"success": True}
            assert status_of(service, "m")["value"] in ("loading", "loaded")
        wait_for(lambda: status_of(service, "m")["value"] == "loaded", 10)
        (engine,) = service.engines()
        for _ in range(2):
            assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
            assert not engine.is_running(), "unloaded means that the process has ended"
            assert status_of(service, "m") == {"value": "unloaded"}
        assert service.output.count("spawn server=") == 1


def test_a_model_whose_file_has_gone_can_still_be_unloaded(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        service.chat("m")
        (tmp_path / "models" / "m.gguf").unlink()
        assert service.get("/v1/models?reload=1").json()["data"] == []
        assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
        assert service.servers() == []
        assert service.post("/models/unload", {"model": "m"}).status_code == 404


def test_a_file_that_has_changed_is_loaded_anew(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        service.chat("m")
        a_gguf(tmp_path / "models" / "m.gguf", size_bytes=5000)
        service.chat("m")
        assert service.output.count("spawn server=") == 1, "no scan since the change"
        service.get("/v1/models/m?reload=1")
        assert service.chat("m").status_code == 200
        assert service.output.count("spawn server=") == 2


def status_of(service: Service, model: str) -> dict[str, object]:
    found: dict[str, object] = service.get(f"/v1/models/{model}").json()["status"]
    return found


def test_an_unload_while_loading_tells_those_who_wait(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    with faulty(tmp_path, FAKE_PORT_ZERO=1, FAKE_LOAD="hang") as service, ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.chat, "m")
        wait_for(service.servers, 10)
        assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
        answer = waiting.result(10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unloaded")
        assert answer.headers["Retry-After"]
        assert status_of(service, "m") == {"value": "unloaded"}, "and not a failure"


def test_an_unload_lets_a_stream_end(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1, FAKE_STREAM_TOKENS=60) as service:
        stream = service.chat("m", stream=True)
        assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
        assert stream.text.rstrip().endswith("data: [DONE]")
