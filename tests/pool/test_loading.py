"""Streams that wait for a load: they begin after two seconds and report its progress."""

from __future__ import annotations

import re
import time
from pathlib import Path

import openai
import pytest

from tests.helpers.service import Service, wait_for
from tests.helpers.ways import read
from tests.relay.test_streams import ask
from tests.service.test_faults import faulty
from workers.server.load_progress import load_progress

pytestmark = pytest.mark.integration

SLOW = {"FAKE_LOAD_SECONDS": 3, "FAKE_PORT_ZERO": 1, "FAKE_STREAM_TOKENS": 3, "FAKE_PROGRESS": 0.6}


def streamed(service: Service, version: str = "1.1") -> tuple[list[tuple[str, str]], str, float]:
    """Headers and body of a stream, and after how many seconds it began."""
    began = time.monotonic()
    with ask(service, version, close=False) as connection:
        connection.settimeout(30)
        connection.recv(1, 2)  # MSG_PEEK
        seconds = time.monotonic() - began
        got = read(connection)
    assert got.is_whole
    return got.headers, got.body.decode(), seconds


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_begins_while_its_model_is_loaded(tmp_path: Path, version: str):
    with faulty(tmp_path, **SLOW | {"FAKE_LOAD_SECONDS": 4}) as service:
        headers, body, seconds = streamed(service, version)
        assert 1.9 < seconds < 3.9
        assert ("content-type", "text/event-stream") in headers and ("x-llama-smart-proxy-model", "m") in headers
        assert ("x-llama-smart-proxy-device", "cpu") in headers
        comments, _, answer = body.partition("data: ")
        assert set(re.findall(r"^: (.*)$", comments, re.MULTILINE)) <= {"loading m", "loading m 60 %"}
        assert ": loading m 60 %\n\n" in comments
        assert ("data: " + answer).count("data: ") >= 4 and answer.endswith("data: [DONE]\n\n")
        wait_for(lambda: not service.servers()[0]["requests"], 10)
        _, body, _ = streamed(service, version)
        assert ": loading" not in body, "it is loaded already"


def test_other_clients_see_the_progress_of_a_load(tmp_path: Path):
    with faulty(tmp_path, **SLOW) as service, ask(service):
        status = wait_for(lambda: (s := service.get("/v1/models/m").json()["status"]).get("progress") and s, 10)
        assert (status["value"], status["progress"]["value"]) == ("loading", 0.6)
        assert "60 %" in service.get("/").text
        wait_for(lambda: service.get("/v1/models/m").json()["status"]["value"] == "loaded", 20)


def test_openais_client_ignores_progress_comments(tmp_path: Path):
    with faulty(tmp_path, **SLOW) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in stream) == 3


def test_progress_as_reasoning_content_shows_each_step_once(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__LOADING_COMMENTS": "reasoning_content"}, **SLOW) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        thoughts = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in stream if c.choices)
        assert thoughts == "loading m 60 %\n"


def test_without_loading_comments_a_stream_waits_in_silence(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__LOADING_COMMENTS": "false"}, **SLOW) as service:
        _, body, seconds = streamed(service)
        assert seconds > 2.9 and ": loading" not in body


def test_a_request_without_a_stream_waits_in_silence(tmp_path: Path):
    with faulty(tmp_path, **SLOW) as service:
        answer = service.chat("m")
        assert "usage" in answer.json()
        assert int(answer.headers["x-llama-smart-proxy-wait-ms"]) > 2900


def test_a_load_that_fails_at_once_is_answered_with_its_own_status(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD="exit1", FAKE_PORT_ZERO=1) as service:
        answer = service.chat("m", stream=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_load_that_fails_later_ends_in_an_error_event(tmp_path: Path, version: str):
    with faulty(tmp_path, FAKE_LOAD="exit1", FAKE_LOAD_SECONDS=3, FAKE_PORT_ZERO=1) as service:
        headers, body, _ = streamed(service, version)
        assert ("content-type", "text/event-stream") in headers
        assert re.search(r'\n\ndata: {"error": .*"code": "model_load_failed".*}\n\n$', body)
        assert "[DONE]" not in body
        page = wait_for(lambda: (p := service.get("/metrics").text).find('code="503"') >= 0 and p, 10)
        assert 'requests_total{code="503",endpoint="/v1/chat/completions",model="m"} 1.0' in page


def test_openais_client_raises_when_a_load_fails_later(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD="exit1", FAKE_LOAD_SECONDS=3, FAKE_PORT_ZERO=1) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="could not be loaded"):
            list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True))


def test_a_request_that_the_engine_rejects_after_the_load_ends_in_an_error_event(tmp_path: Path):
    with faulty(tmp_path, **(SLOW | {"FAKE_STATUS": 400})) as service:
        _, body, _ = streamed(service)
        assert re.search(r"\n\ndata: \{.*error.*\}\n\n$", body) and "[DONE]" not in body


def test_a_client_that_disconnects_during_a_load_leaves_the_queue_and_the_load_continues(tmp_path: Path):
    with faulty(tmp_path, **SLOW) as service:
        with ask(service) as connection:
            connection.recv(100)  # it has begun
        wait_for(lambda: "requests_waiting{" not in service.get("/metrics").text, 2)
        wait_for(lambda: [each["state"] for each in service.servers()] == ["ready"], 20)
        assert service.servers()[0]["requests"] == 0


def test_load_progress_is_the_fraction_over_all_stages():
    def line(payload: str) -> str:
        return f'cmd_child_to_router:state:{{"state":"loading","payload":{payload}}}'

    step = line('{"stages":["text_model","spec_model"],"current":"spec_model","value":0.5}')
    assert load_progress(["x", step, "y"]) == 0.75
    assert load_progress([step, line('{"stages":["text_model"],"current":"text_model","value":1}')]) == 1.0
    odd = [
        *("x", "cmd_child_to_router:state:{", 'cmd_child_to_router:state:{"state":"ready","payload":null}'),
        *(line("[]"), line('{"stages":[],"current":"a","value":1}')),
        line('{"stages":["a"],"current":"a","value":7}'),
    ]
    assert {load_progress([each]) for each in odd} == {None}
