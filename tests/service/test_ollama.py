"""Ollama's own Python client, unmodified, against the service and the embedded engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import requests

from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import LIBRARY, a_manifest
from tests.helpers.service import Service, serving, wait_for
from tests.service.test_faults import faulty
from workers.catalog.demo_model import write_demo_model

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
THREE = {"num_predict": 3, "temperature": 0}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It serves one model as `demo`, with a variant `brief`, and as `vectors` for embeddings; `any` is both.
    `plain` has no chat template. `pulled:1b` is what Ollama has downloaded, `polite` the same with a system prompt."""
    folder = tmp_path_factory.mktemp("ollama")
    file = write_demo_model(folder / "models")
    vectors = {"path": str(file), "args": ["--embeddings", "--pooling", "mean"]}
    config = folder / "config.json"
    demo = {"path": str(file), "variants": {"brief": {"set": {"max_tokens": 1}}}}
    a_gguf(folder / "plain.gguf")
    layers = {"model": file.read_bytes(), "params": b'{"temperature": 0}'}
    a_manifest(folder / "ollama", f"{LIBRARY}/pulled/1b", **layers)
    a_manifest(folder / "ollama", f"{LIBRARY}/polite/latest", **layers, system=b"Always thank for the question.")
    models = {"demo": demo, "vectors": vectors, "plain": {"path": str(folder / "plain.gguf")}}
    settings = {"models": models, "any_of": {"any": ["vectors", "demo"]}}
    config.write_text(json.dumps(settings))
    with serving(folder, "--config", str(config)) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[ollama.Client]:
    with ollama.Client(host=service.url, timeout=60) as made:
        yield made


def test_a_chat_is_one_object(client: ollama.Client):
    answer = client.chat(model="demo", messages=HI, options=THREE)
    assert (answer.model, answer.message.role, answer.done, answer.done_reason) == ("demo", "assistant", True, "length")
    assert answer.message.content
    assert answer.eval_count == 3
    assert answer.prompt_eval_count and answer.prompt_eval_count > 3
    assert answer.total_duration and answer.load_duration and answer.total_duration > answer.load_duration
    assert answer.eval_duration and answer.prompt_eval_duration
    assert answer.created_at and answer.created_at.endswith("Z")


def test_a_chat_is_a_stream_of_objects(client: ollama.Client, service: Service):
    whole = client.chat(model="demo", messages=HI, options=THREE)
    *parts, last = client.chat(model="demo", messages=HI, options=THREE, stream=True)
    assert [part.done for part in parts] == 3 * [False]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (last.message.content, last.done, last.done_reason, last.eval_count) == ("", True, "length", 3)
    logged = rf"status=200 path=/api/chat model=demo .* prompt={last.prompt_eval_count} completion=3 "
    wait_for(lambda: len(re.findall(logged, service.output)) >= 2, 20)


def test_a_stream_is_lines_of_json(service: Service):
    body = {"model": "demo", "messages": HI, "options": THREE}
    answer = service.post("/api/chat", body)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line)["done"] for line in answer.text.splitlines()] == [False, False, False, True]
    assert answer.headers["x-llama-smart-proxy-model"] == "demo"


def test_a_prompt_gets_the_models_template_unless_it_is_raw(client: ollama.Client):
    chat = client.chat(model="demo", messages=HI, options=THREE)
    prompt = client.generate(model="demo", prompt="Hi", options=THREE)
    assert (prompt.response, prompt.prompt_eval_count) == (chat.message.content, chat.prompt_eval_count)
    raw = client.generate(model="demo", prompt="Hi", raw=True, options=THREE)
    assert raw.eval_count == 3 and raw.prompt_eval_count and raw.prompt_eval_count < 10
    *parts, last = client.generate(model="demo", prompt="Hi", raw=True, options=THREE, stream=True)
    assert "".join(part.response or "" for part in parts) == raw.response
    assert (last.done, last.done_reason) == (True, "length")


def test_a_models_rules_apply_to_the_translated_request(client: ollama.Client):
    for answer in (
        client.chat(model="brief", messages=HI, options=THREE),
        client.generate(model="brief:latest", prompt="Hi", options=THREE),
        client.generate(model="brief", prompt="Hi", raw=True, options=THREE),
    ):
        assert (answer.model, answer.eval_count, answer.done_reason) == ("demo", 1, "length")


def test_every_token_has_its_log_probability_where_requested(client: ollama.Client):
    chat = client.chat(model="demo", messages=HI, options=THREE, logprobs=True, top_logprobs=2)
    raw = client.generate(model="demo", prompt="Hi", raw=True, options=THREE, logprobs=True, top_logprobs=2)
    for answer in (chat, raw):
        assert answer.logprobs and len(answer.logprobs) == 3
        assert [len(each.top_logprobs or ()) for each in answer.logprobs] == [2, 2, 2]


def test_every_input_has_an_embedding_of_length_one(client: ollama.Client):
    answer = client.embed(model="vectors", input=["one slot", "two servers"])
    assert len(answer.embeddings) == 2
    assert all(sum(value**2 for value in each) == pytest.approx(1) for each in answer.embeddings)
    assert answer.prompt_eval_count and answer.total_duration
    (short,) = client.embed(model="vectors", input="one slot", dimensions=4).embeddings
    assert len(short) == 4 and sum(value**2 for value in short) == pytest.approx(1)
    (alone,) = client.embed(model="vectors", input="one slot").embeddings
    assert client.embeddings(model="vectors", prompt="one slot").embedding == alone
    assert client.embed(model="vectors", input=[]).embeddings == []


def test_a_model_is_loaded_and_unloaded_without_a_prompt(client: ollama.Client, service: Service):
    def is_loaded() -> bool:
        return any(each["model_id"] == "demo" and each["state"] == "ready" for each in service.servers())

    assert client.generate(model="demo", keep_alive="1h").done_reason == "load"
    assert is_loaded()
    for _ in range(2):
        assert client.chat(model="demo", messages=[], keep_alive=0).done_reason == "unload"
    wait_for(lambda: not is_loaded(), 20)
    assert client.chat(model="demo", messages=[]).done_reason == "load"
    assert is_loaded()


def test_a_virtual_name_is_answered_by_the_model_that_can(client: ollama.Client, service: Service):
    assert client.embed(model="any", input="one slot").model == "vectors"
    assert client.chat(model="any", messages=HI, options=THREE).model == "demo"
    assert service.chat("any", max_tokens=1).headers["x-llama-smart-proxy-model"] == "demo"
    assert client.show("any").details


def test_models_are_listed(client: ollama.Client, service: Service):
    listed = {model.model: model for model in client.list().models}
    names = {"demo:latest", "brief:latest", "vectors:latest", "plain:latest", "any:latest"}
    assert set(listed) == {*names, "polite:latest", "pulled:1b"}, "clients add the tag before they look a name up"
    demo = listed["demo:latest"]
    assert demo.details and demo.details.format == "gguf"
    assert demo.size and demo.digest and demo.modified_at
    client.generate(model="demo:latest")
    (process,) = [each for each in client.ps().models if each.model == "demo:latest"]
    assert process.digest == demo.digest
    assert (process.context_length, process.size_vram) == (32768, 0)
    assert process.size and process.expires_at and process.expires_at > demo.modified_at
    assert service.get("/api/version").json().keys() == {"version"}


def test_a_model_that_ollama_has_fetched_answers_under_its_name(client: ollama.Client, service: Service):
    """Its file is a blob, whose name has no ending. One made of it, with a system prompt, shares its server."""
    plain, polite = [
        client.chat(model=name, messages=HI, options={"num_predict": 3}) for name in ("pulled:1b", "polite")
    ]
    assert (plain.model, plain.eval_count, polite.eval_count) == ("pulled:1b", 3, 3)
    assert polite.prompt_eval_count and plain.prompt_eval_count
    assert polite.prompt_eval_count > plain.prompt_eval_count + 5, "its system prompt is part of it"
    plans = {each["id"]: each["source"] for each in service.get("/plan").json()["models"]}
    assert plans == {"demo": "file", "vectors": "file", "plain": "file", "pulled:1b": "ollama"}
    entry = service.get("/v1/models/polite").json()
    assert (entry["source"], entry["parent"], entry["status"]["value"]) == ("ollama", "pulled:1b", "loaded")


def test_a_model_tells_its_details(client: ollama.Client, service: Service):
    shown = client.show("demo")
    assert shown.modelinfo and shown.details
    architecture = shown.modelinfo["general.architecture"]
    assert (shown.details.family, shown.parameters) == (architecture, f"{'num_ctx':<30} 32768")
    assert shown.modelinfo[f"{architecture}.context_length"] > 0
    assert shown.capabilities and shown.capabilities[0] == "completion"
    assert client.show("vectors").capabilities == ["embedding"]
    assert service.post("/api/show", {"name": "demo:latest"}).json()["details"]["family"] == architecture
    for body, status in (({"model": "nope"}, 404), ({}, 400), ({"model": 5}, 400)):
        answer = service.post("/api/show", body)
        assert (answer.status_code, [*answer.json()]) == (status, ["error"])


def test_only_what_is_there_can_be_pulled(client: ollama.Client):
    assert client.pull("demo").status == "success"
    assert [part.status for part in client.pull("demo:latest", stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="not downloaded") as raised:
        client.pull("llama3.2")
    assert raised.value.status_code == 404


def test_what_has_no_counterpart_says_what_to_do(client: ollama.Client, service: Service):
    commands: list[Callable[[], object]] = [
        lambda: client.create(model="other", from_="demo"),
        lambda: client.push("demo"),
        lambda: client.copy("demo", "other"),
    ]
    for command in commands:
        with pytest.raises(ollama.ResponseError, match=r"not supported: (models are files|give a model)") as raised:
            command()
        assert raised.value.status_code == 501
    with pytest.raises(ollama.ResponseError) as raised:
        client.delete("demo")  # it is in a folder of the user's
    assert (raised.value.status_code, client.show("demo").details.format) == (501, "gguf")
    assert requests.head(f"{service.url}/api/blobs/sha256:00", timeout=10).status_code == 501
    assert "POST" in requests.get(f"{service.url}/api/chat", timeout=10).headers["Allow"]


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"model": "nope", "messages": HI}, 404, "'nope' not found"),
        ({"model": "demo", "messages": HI, "options": {"num_ctx": 10**6}}, 400, "num_ctx"),
        ({"model": "demo", "messages": HI, "think": "hard"}, 400, "think"),
        ({"model": "demo", "messages": HI, "think": True}, 400, "demo does not support thinking"),
        ({"model": "plain", "messages": HI, "think": "low"}, 400, "plain does not support thinking"),
        ({"model": "plain", "messages": HI, "tools": [TOOL]}, 400, "plain does not support tools"),
        ({"model": "demo", "messages": HI, "options": {"top_k": "x"}}, 400, "top_k"),
        ({"model": "demo", "messages": [{"role": "user", "images": [3]}]}, 400, "messages"),
    ],
)
def test_errors_are_texts(service: Service, request_: dict[str, Any], status: int, text: str):
    answer = service.post("/api/chat", request_)
    assert answer.status_code == status
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"] and text in message


def test_the_client_raises_errors_with_their_status(client: ollama.Client):
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat(model="nope", messages=HI, stream=False)
    assert raised.value.status_code == 404


def test_a_stream_that_is_cut_raises(tmp_path: Path):
    """And while the model loads nothing is sent: every line is an object."""
    with faulty(tmp_path, FAKE_PORT_ZERO=1, FAKE_TRUNCATE=1, FAKE_LOAD_SECONDS=2.2) as service:
        with ollama.Client(host=service.url, timeout=60) as client:
            stream = client.chat(model="m", messages=HI, stream=True)
            assert next(stream).message.content
            with pytest.raises(ollama.ResponseError, match="llama-server"):
                list(stream)
            with pytest.raises(ollama.ResponseError) as raised:
                client.chat(model="m", messages=HI)
        assert raised.value.status_code == 502


def test_a_large_image_is_translated_elsewhere(service: Service):
    """The engine cannot see, and says so: it understood the request."""
    image = "iVBORw0KGgo" + "A" * 2_000_000
    answer = service.post("/api/chat", {"model": "demo", "messages": [{"role": "user", "images": [image]}]})
    assert "image" in answer.json()["error"]
    assert any(each.name() == "body-reader" for each in service.worker.children())
