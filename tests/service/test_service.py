"""The service as clients see it: real gunicorn, the real embedded engine, the demo model, real clients."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.helpers.documents import commands
from tests.helpers.service import ENDLESS, Service, serving, wait_for
from workers.catalog.demo_model import write_demo_model


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def client(service: Service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=30) as made:
        yield made


HELLO = [{"role": "user", "content": "Hello!"}]


def test_an_openai_client_gets_an_answer(client: openai.OpenAI):
    answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=5)
    assert answer.model == "demo"
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].message.content


def test_the_first_command_of_the_readme_is_answered(service: Service):
    first = next(block for block in commands() if block.page == "README.md")
    done = first.run(service.url, service.folder)
    assert json.loads(done.stdout)["choices"], done.stdout + done.stderr


@pytest.mark.gunicorn
def test_an_openai_client_gets_a_stream(client: openai.OpenAI):
    # Drawn by chance, a token may be a part of a character, which is no text yet.
    options = {"max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
    chunks = list(client.chat.completions.create(model="demo", messages=HELLO, stream=True, **options))
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 8


def test_an_openai_client_gets_a_completion(client: openai.OpenAI):
    answer = client.completions.create(model="demo", prompt="Once", max_tokens=3)
    assert answer.usage.completion_tokens == 3


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "day": {"enum": ["today", "tomorrow"]}},
    "required": ["city", "day"],
    "additionalProperties": False,
}


def test_an_answer_matches_the_schema_of_its_request(client: openai.OpenAI, service: Service):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    messages = [{"role": "user", "content": "?"}]
    answer = client.chat.completions.create(model="demo", messages=messages, response_format=form, max_tokens=500)
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "day"}
    body = {"model": "demo", "prompt": "?", "json_schema": SCHEMA, "n_predict": 500}
    assert set(json.loads(service.post("/completion", body).json()["content"])) == {"city", "day"}


def test_a_vocabulary_to_which_no_schema_can_be_applied_is_explained(tmp_path: Path):
    """llama-server's 400 said "std::exception"."""
    file = write_demo_model(tmp_path / "models")
    data, key = file.read_bytes(), b"tokenizer.ggml.add_space_prefix" + b"\7\0\0\0"
    assert key + b"\0" in data
    file.rename(file.with_name("spaced.gguf")).write_bytes(data.replace(key + b"\0", key + b"\1"))
    with serving(tmp_path, "--models-dir", str(tmp_path / "models")) as service:
        answer = service.post("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_object"}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")
        assert "add_space_prefix" in answer.json()["error"]["message"]
        assert service.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2}).status_code == 200


def test_a_required_tool_is_called(client: openai.OpenAI):
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    messages = [{"role": "user", "content": "?"}]
    answer = client.chat.completions.create(
        model="demo", messages=messages, tools=[tool], tool_choice="required", max_tokens=500
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments)["day"] in ("today", "tomorrow")


def test_the_models_are_listed_with_their_status(client: openai.OpenAI, service: Service):
    client.chat.completions.create(model="demo", messages=HELLO, max_tokens=1)
    (model,) = client.models.list().data
    assert "--model" in model.status.pop("args")
    assert (model.id, model.status) == ("demo", {"value": "loaded", "ctx_size": 32768})
    assert model.context_length == model.meta["n_ctx"] == 32768
    assert (model.capabilities, model.architecture["output_modalities"]) == (["completion", "chat", "tools"], ["text"])
    assert client.models.retrieve("demo").id == "demo"
    assert service.get("/models").json()["data"][0]["id"] == "demo"


def test_rejections_by_the_engine_pass_through_unchanged(service: Service):
    answer = service.post("/props", {"model": "demo"})
    assert answer.status_code == 501  # the demo's server was not started with --props
    assert "x-llama-smart-proxy-error" not in answer.headers


def test_what_the_model_cannot_do_is_rejected_without_the_engine(service: Service, client: openai.OpenAI):
    answer = service.post("/v1/embeddings", {"model": "demo", "input": "Hello!"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": [picture]}])
    assert raised.value.param == "messages[0].content[0]"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    answer = service.post("/v1/messages", {"model": "demo", "messages": [{"role": "user", "content": [image]}]})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_headers_name_the_model_the_device_and_the_request(service: Service):
    body = {"model": "demo", "messages": HELLO, "max_tokens": 1}
    answer = service.post("/chat/completions", body, headers={"x-request-id": "mine-17"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine-17"
    assert answer.headers["x-llama-smart-proxy-model"] == "demo"
    assert answer.headers["x-llama-smart-proxy-device"] == "cpu"
    assert int(answer.headers["x-llama-smart-proxy-wait-ms"]) >= 0


@pytest.mark.parametrize("given", ["1 status=200", "a=b", 'a"b', "é", "x" * 129])
def test_an_unsafe_request_id_is_replaced(service: Service, given: str):
    """It is part of a log line."""
    answer = requests.get(service.url + "/livez", headers={"x-request-id": given.encode()}, timeout=10)
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-request-id"] != given


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"not json", 400, "invalid_request"),
        (b"[1]", 400, "invalid_request"),
        (b'{"model": 5}', 400, "invalid_request"),
        (b'{"model": "demo", "model": "other"}', 400, "invalid_request"),
        (b'{"a":' * 100_000, 400, "invalid_request"),
        (b'{"model": "demo", "a": [' + b"[]," * 1_000_000 + b"[]]}", 400, "invalid_request"),
        (b'{"model": "nope", "n": ' + b"9" * 5000 + b"}", 404, "model_not_found"),
        (b'{"model": 7777}', 400, "invalid_request"),
        (b'{"model": "demo", "n": NaN}', 400, "invalid_request"),
        ('{"model": "demo"}'.encode("utf-16"), 400, "invalid_request"),
        (b'{"model": "nope"}', 404, "model_not_found"),
        (b'{"model": "../../etc/passwd"}', 404, "model_not_found"),
        (b'{"model": "--port"}', 404, "model_not_found"),
    ],
)
def test_a_bad_request_gets_the_error_object(service: Service, body: bytes, status: int, code: str):
    answer = requests.post(f"{service.url}/v1/chat/completions", data=body, timeout=10)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert answer.headers["x-llama-smart-proxy-error"] == "1"
    assert answer.headers["x-request-id"]


def test_only_the_outermost_model_counts(service: Service):
    body = b'{"messages": [{"role": "user", "content": "Hello!", "model": "a"}], "model": "demo", "max_tokens": 1}'
    assert requests.post(f"{service.url}/v1/chat/completions", data=body, timeout=10).status_code == 200


@pytest.mark.parametrize("name", [{}, {"model": None}, {"model": " "}, {"model": "DEMO"}])
def test_the_only_model_answers_requests_that_name_none(service: Service, name: dict[str, Any]):
    """As llama.vim, llama.vscode and SillyTavern send them."""
    answer = service.post("/v1/completions", {"prompt": "Hello", "max_tokens": 1} | name)
    assert (answer.status_code, answer.headers["x-llama-smart-proxy-model"]) == (200, "demo")
    assert service.post("/tokenize", {"content": "Hello"} | name).json()["tokens"]
    assert service.get("/slots").json()[0]["n_ctx"]
    assert service.get("/props").json()["role"] == "router"
    for path in ("/models/load", "/models/unload"):
        assert service.post(path, {}).json()["error"]["code"] == "missing_model", "nothing is unloaded by omission"


def test_unknown_paths_and_methods_are_rejected(service: Service):
    assert service.get("/nowhere").json()["error"]["code"] == "not_found"
    wrong = service.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]


@pytest.mark.parametrize("order", ["load", "unload"])
def test_load_and_unload_are_not_model_names(service: Service, order: str):
    wrong = service.get(f"/models/{order}")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["Allow"] == "POST"
    assert service.get(f"/v1/models/{order}").status_code == 404


def test_an_unload_is_logged_and_counted_while_it_waits_for_an_answer(tmp_path: Path):
    with serving(tmp_path) as service:
        with service.chat(stream=True, **ENDLESS) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if line.startswith(b"data:"))  # a slow load sends comments first
            with ThreadPoolExecutor(1) as pool:
                order = pool.submit(service.post, "/models/unload", {"model": "demo"})
                wait_for(lambda: service.servers()[0]["state"] == "draining", 10)
                wait_for(lambda: "unload ordered model=demo" in service.output, 10)  # logged by a thread of its own
                stream.close()
                assert order.result(20).json() == {"success": True}
        counted = 'llama_smart_proxy_server_stops_total{model="demo",reason="unload"} 1.0'
        assert counted in service.get("/metrics").text


def test_a_forced_unload_ends_running_answers_at_once(tmp_path: Path):
    """Streams get an error event, answers that have not begun a status; the next request loads the model again."""
    with serving(tmp_path) as service:
        wrong = service.post("/models/unload", {"model": "demo", "wait_seconds": "5"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "wait_seconds")
        for path in ("/models/unload", "/api/models/unload"):
            assert_ends_running_answers(service, path)
        assert service.chat().status_code == 200
        assert service.post("/models/unload", {"model": "demo", "wait_seconds": 60}, timeout=10).status_code == 200


def assert_ends_running_answers(service: Service, path: str) -> None:
    with service.chat(stream=True, **ENDLESS) as stream, ThreadPoolExecutor(1) as pool:
        lines = stream.iter_lines()
        next(line for line in lines if line.startswith(b"data:"))
        silent = pool.submit(service.chat, **ENDLESS)
        wait_for(lambda: slots_in_use(service) == 2, 10)
        assert service.post(path, {"model": "demo", "force": True}, timeout=10).status_code == 200
        assert service.servers() == []
        *_, last = filter(None, lines)
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "model_unloaded"
        answer = silent.result(20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unloaded")


def test_an_openai_client_gets_the_right_exception(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="GET /v1/models lists the names"):
        client.chat.completions.create(model="nope", messages=HELLO)


def test_health_and_probes_answer(service: Service):
    service.chat()
    health = service.get("/health").json()
    assert (health["status"], health["degraded"], health["reasons"]) == ("ok", False, [])
    (server,) = health["servers"]
    assert (server["model_id"], server["status"], server["state"]) == ("demo", "running", "ready")
    assert health["gpu_pool_status"]["total_gpus"] == 0
    assert service.get("/livez").status_code == service.get("/readyz").status_code == 200


def test_the_status_lists_requests_with_their_speed_and_never_what_they_said(service: Service):
    secret = [{"role": "user", "content": "xyzzy"}]
    for stream in (False, True):
        assert "choices" in service.chat(messages=secret, max_tokens=8, ignore_eos=True, stream=stream).text
    assert service.chat("nope").status_code == 404
    assert service.get("/slots?model=demo").status_code == 200  # takes no slot

    def last() -> list[dict[str, Any]]:
        """A request is noted after its answer is sent, so the stream may come after the one that followed it."""
        return sorted(service.get("/status").json()["requests"][:3], key=lambda request: request["status"])

    def ours_and_unknown() -> list[dict[str, Any]]:
        found = last()
        return found if [request["status"] for request in found] == [200, 200, 404] else []

    *ours, unknown = wait_for(ours_and_unknown, 20)
    answer = service.get("/status")
    assert (unknown["model"], unknown["status"], unknown["wait_seconds"]) == (None, 404, None)
    for request in ours:
        assert (request["model"], request["status"], request["path"]) == ("demo", 200, "/v1/chat/completions")
        assert (request["completion_tokens"], request["key"]) == (8, None)
        assert request["tokens_per_second"] > 0
        assert 0 <= request["wait_seconds"] <= request["first_byte_seconds"] <= request["seconds"]
    assert answer.json()["last_hour"]["loads"] >= 1
    assert answer.json()["last_hour"]["requests"] >= 3
    assert "xyzzy" not in answer.text
    assert service.get("/status/history").json() == {"interval_seconds": 5, "gpus": {}}


def test_a_viewer_sees_a_request_come_and_go(service: Service):
    with requests.get(service.url + "/status/stream", stream=True, timeout=20) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        events = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith(b"data: "))
        next(events)
        running = service.send_raw(ENDLESS | {"stream": True})
        busy = next(event for event in events if any(server["requests"] for server in event["servers"]))
        assert busy["servers"][0]["model"] == "demo"
        fast = next(event["servers"][0] for event in events if event["servers"][0]["tokens_per_second"])
        assert 0 < fast["context_used_tokens"] <= fast["ctx_size"] and fast["slots_busy"] == 1
        running.close()
        idle = next(event for event in events if not any(server["requests"] for server in event["servers"]))
        assert next(event for event in chain([idle], events) if [r["status"] for r in event["requests"][:1]] == [499])
        assert idle["servers"][0]["tokens_per_second"] == 0.0


def open_tab(service: Service) -> tuple[socket.socket, str]:
    """The connection of a page that asks for the stream of the status, and the head of the answer."""
    tab = service.connect()
    tab.sendall(b"GET /status/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return tab, tab.recv(1024).decode()


def test_health_answers_while_more_pages_are_open_than_may_stream(service: Service):
    with contextlib.ExitStack() as tabs:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: open_tab(service), range(200)))
        for tab, _ in answers:
            tabs.callback(tab.close)
        began = time.monotonic()
        assert service.get("/health").status_code == 200
        assert time.monotonic() - began < 2.0  # 20 times what it may take
        heads = sorted(head for _, head in answers)
        statuses = Counter(head.split()[1] for head in heads)
        assert 16 < statuses["200"] <= 32 and statuses.total() == statuses["200"] + statuses["503"]
        assert "Retry-After: 1" in heads[-1]
        assert service.chat().status_code == 200
    wait_for(lambda: is_streamed_to_a_new_tab(service), 20)  # it is noticed that they are gone


def is_streamed_to_a_new_tab(service: Service) -> bool:
    tab, head = open_tab(service)
    tab.close()
    return head.startswith("HTTP/1.1 200")


def test_health_has_every_key_of_the_original_service(service: Service):
    service.chat()
    health = service.get("/health").json()
    (server,) = health["servers"]
    assert {"id", "host", "port", "model_id", "status", "process", "gpu_assignment", "state"} <= set(server)
    assert server["gpu_assignment"] is None
    assert server["process"] == service.engines()[0].pid
    gpus = health["gpu_pool_status"]
    zeros = {"total_gpus", "available_gpus", "total_vram", "available_vram", "total_memory", "used_memory",
             "free_memory", "utilization_average"}  # fmt: skip
    assert {name: gpus.pop(name) for name in zeros} == dict.fromkeys(zeros, 0)
    assert gpus == {
        "gpu_list": [],
        "gpus": [],
        "allocation_strategy": "single-gpu-preferred",
        "gpu_available": False,
        "gpu_monitoring_enabled": False,
        "state": "disabled",
        "problem": "gpu.enabled is false",
        "driver_version": "",
        "cuda_version": "",
        "missing_gpus": [],
        "age_seconds": None,
    }


def test_a_plan_says_where_a_model_fits_and_loads_nothing(service: Service):
    before = [server["id"] for server in service.servers()]
    (entry,) = service.get("/plan").json()["models"]
    assert entry["id"] == "demo" and entry["quant"] == "F16" and entry["outcome"] in ("loaded", "place")
    answer = service.post("/plan", {"model": "demo", "ctx_size": 2048, "parallel": 1}).json()
    assert (answer["outcome"], answer["placement"]["ctx_size"], answer["evict"]) == ("place", 2048, [])
    assert answer["ram"]["free_bytes"] > answer["needed_bytes"] > 0
    wrong = {"ctx": 1, "ctx_size": "large", "parallel": 0, "flash_attn": "yes", "kv_unified": 1}
    for key, value in wrong.items():
        refused = service.post("/plan", {"model": "demo", key: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, key)
    args = {"model": "demo", "args": ["--no-kv-offload", "-ot", "exps=CPU", "--temp", "0"]}
    assert service.post("/plan", args).json()["notes"] == ["no effect on memory: --temp"]
    for words in (["--foo"], "-nkvo", [1], ["-md", "/etc/passwd"]):
        refused = service.post("/plan", {"model": "demo", "args": words})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "args"
    assert service.post("/plan", {"ctx_size": 2048}).json()["error"]["code"] == "missing_model"
    assert [server["id"] for server in service.servers()] == before


def test_the_page_loads_no_external_resources(service: Service):
    page = service.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "demo" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert not re.search(r"""(href|src)=["']?(https?:)?/|<script>|<style|\sstyle=|\son[a-z]+=""", page.text)


def test_the_assets_of_the_page_are_served_for_a_year_until_they_change(service: Service):
    linked = re.findall(r'(?:href|src)="(static/[^"]+)"', service.get("/").text)
    types = {path.rpartition(".")[2]: service.get(f"/{path}").headers["Content-Type"] for path in linked}
    assert {name: value.partition(";")[0] for name, value in types.items()} == {
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }
    kept = service.get(f"/{linked[0]}").headers
    assert "immutable" in kept["Cache-Control"]
    assert service.get("/static/of-an-older-version/status.css").headers["Cache-Control"] == "no-cache"
    assert service.get("/static/0/..%2Fstatus.html").status_code == service.get("/static/0/dom.css").status_code == 404
    again = {"If-None-Match": kept["ETag"]}
    assert requests.get(f"{service.url}/{linked[0]}", headers=again, timeout=10).status_code == 304


def test_metrics_count_requests_and_show_the_server(service: Service):
    service.chat()
    counted = 'llama_smart_proxy_requests_total{code="200",endpoint="/v1/chat/completions",model="demo"}'
    wait_for(lambda: counted in service.get("/metrics").text, 5)  # counted once the answer is sent
    page = service.get("/metrics").text
    assert 'llama_smart_proxy_tokens_total{kind="completion",model="demo"}' in page
    assert 'llama_smart_proxy_server_state{model="demo",server="1",state="ready"} 1.0' in page
    assert 'llama_smart_proxy_server_starts_total{model="demo",outcome="ready"} 1.0' in page
    assert 'llama_smart_proxy_decisions_total{outcome="place"} 1.0' in page
    service.chat(model="made-up-by-a-client")
    assert "made-up-by-a-client" not in service.get("/metrics").text


@pytest.mark.gunicorn
def test_a_connection_carries_one_request_after_another(service: Service):
    with service.connect() as connection:
        for _ in range(3):
            body = b'{"model": "demo", "messages": [], "prompt": "Once", "max_tokens": 1}'
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            with connection.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = dict(line.split(b": ", 1) for line in iter(answer.readline, b"\r\n"))
                assert headers[b"Connection"] == b"keep-alive\r\n"
                answer.read(int(headers[b"Content-Length"]))


def test_a_large_json_body_is_accepted_with_curls_content_type(service: Service):
    """`curl -d` declares a form, and llama-server rejects forms above 1 MiB with an empty 413."""
    body = json.dumps({"model": "demo", "prompt": "Once", "max_tokens": 1, "user": "x" * 2**21})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = requests.post(f"{service.url}/v1/completions", data=body, headers=headers, timeout=30)
    assert answer.status_code == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_too_large_is_rejected_in_any_framing(tmp_path: Path, chunked: bool):
    with serving(tmp_path, SERVER__MAX_BODY="1KiB") as service:
        body = b'{"model": "demo"}' + b" " * 5000
        sent = iter([body[:100], body[100:]]) if chunked else body
        answer = requests.post(f"{service.url}/v1/chat/completions", data=sent, timeout=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert 'code="413"' in service.get("/metrics").text


def test_a_model_name_in_any_script_is_served_and_escaped_in_the_header(tmp_path: Path):
    """Headers cannot contain it unescaped: the answer used to fail, and its slot was never released."""
    models = tmp_path / "models"
    models.mkdir()
    demo = write_demo_model(tmp_path / "written")
    (models / "模型 100%.gguf").write_bytes(demo.read_bytes())
    (models / "<img src=x onerror=alert(1)>.gguf").write_bytes(demo.read_bytes())
    with serving(tmp_path, "--models-dir", str(models)) as other:
        for _ in range(6):  # more than it has slots
            answer = other.chat("模型 100%", max_tokens=1)
            assert answer.status_code == 200
        assert answer.json()["model"] == "模型 100%"
        assert answer.headers["x-llama-smart-proxy-model"] == "%E6%A8%A1%E5%9E%8B 100%25"
        assert other.chat("<img src=x onerror=alert(1)>", max_tokens=1).status_code == 200
        page = other.get("/")
        assert page.status_code == other.get("/metrics").status_code == 200
        assert "<img" not in page.text and "&lt;img src=x" in page.text


def test_health_answers_while_unneeded_bodies_are_incomplete(tmp_path: Path):
    """They were answered at once, but each used to hold a thread until its body timed out."""
    with serving(tmp_path, SERVER__THREADS="24") as service:
        service.get("/health")
        halves = [service.connect() for _ in range(60)]
        for half in halves:
            half.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(20):
            assert service.get("/readyz").status_code == 200
        for half in halves:
            half.close()


def slots_in_use(service: Service) -> int:
    return sum(server["requests"] for server in service.servers())


def engine_cpu_seconds(service: Service) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in service.engines())


def generation_has_stopped(service: Service) -> bool:
    """Whether no engine is computing."""
    before = engine_cpu_seconds(service)
    time.sleep(0.1)
    return engine_cpu_seconds(service) - before < 0.02


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_disconnect_stops_the_generation(service: Service, stream: bool):
    service.chat()
    with service.send_raw({"stream": stream, **ENDLESS}) as connection:
        wait_for(lambda: slots_in_use(service) == 1, 5)
        if stream:
            wait_for(lambda: b"data:" in connection.recv(65536), 5)
        assert not generation_has_stopped(service)
    wait_for(lambda: slots_in_use(service) == 0, 2)
    wait_for(lambda: generation_has_stopped(service), 3)
    assert service.chat().status_code == 200


def test_a_client_disconnect_does_not_stop_the_load(tmp_path: Path):
    with serving(tmp_path) as service:
        service.get("/health")
        with service.send_raw({"max_tokens": 1}):
            wait_for(service.servers, 5)
        wait_for(lambda: [s["state"] for s in service.servers()] == ["ready"], 10)
        wait_for(lambda: slots_in_use(service) == 0, 5)


def test_a_hundred_requests_for_a_cold_model_start_one_server(tmp_path: Path):
    with serving(tmp_path) as service:
        service.get("/health")
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: service.chat(max_tokens=1).status_code, range(100)))
        assert answers == [200] * 100
        assert service.output.count("spawn server=") == 1


def test_health_answers_while_as_many_heads_are_incomplete_as_there_are_threads(tmp_path: Path):
    settings = {"SERVER__THREADS": "24", "SERVER__RECEIVE_TIMEOUT_SECONDS": "3"}
    with serving(tmp_path, **settings) as service:
        service.chat()
        halves = [service.connect() for _ in range(24)]
        for half in halves:
            half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        assert service.get("/readyz").status_code == 200
        assert service.chat().status_code == 200
        assert time.monotonic() - began < 2.9, "before the first of them timed out"
        for half in halves:
            head, _, body = read_all(half).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["error"]["code"] == "request_timeout"
            half.close()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


@pytest.mark.gunicorn
def test_inference_leaves_the_reserved_threads_free(tmp_path: Path):
    settings = {"SERVER__THREADS": "6", "SERVER__RESERVE_THREADS": "3", "SCHEDULING__MAX_WAITING": "2"}
    with serving(tmp_path, **settings) as service:
        service.chat()
        wait_for(lambda: slots_in_use(service) == 0, 5)  # released shortly after the answer arrives
        streams = [service.send_raw({"stream": True, **ENDLESS}) for _ in range(3)]
        wait_for(lambda: slots_in_use(service) == 3, 5)
        refused = service.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        for path in ("/api/show", "/api/pull"):  # a body that arrives slowly holds its thread
            assert requests.post(service.url + path, json={"model": "demo"}, timeout=10).status_code == 503
        assert service.get("/readyz").status_code == 200
        for stream in streams:
            stream.close()
        wait_for(lambda: service.chat().status_code == 200, 5)


def test_an_idle_model_is_unloaded_and_reloaded_on_demand(tmp_path: Path):
    with serving(tmp_path, SCHEDULING__TTL_SECONDS="0.5") as service:
        service.chat()
        (engine,) = service.engines()
        wait_for(lambda: not service.servers(), 10)
        assert not engine.is_running()
        assert service.chat().status_code == 200


def test_requests_during_an_unload_are_answered(tmp_path: Path):
    """Every request is answered 200 while the model's idle time is shorter than the time between requests."""
    with serving(tmp_path, SCHEDULING__TTL_SECONDS="0.05") as service:
        statuses = []
        for pause in (0.04, 0.05, 0.06, 0.07, 0.05, 0.06):
            statuses.append(service.chat(max_tokens=1).status_code)
            time.sleep(pause)
        assert statuses == [200] * 6


def test_a_file_the_engine_rejects_is_explained_to_every_waiting_request(tmp_path: Path):
    (tmp_path / "models").mkdir()
    write_unknown_architecture(tmp_path / "models" / "strange.gguf")
    with serving(tmp_path, "--models-dir", str(tmp_path / "models")) as service:
        service.get("/health")
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: service.chat("strange"), range(5)))
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_load_failed"
            assert "unknown model architecture: 'strange'" in answer.json()["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"
            assert "Retry-After" not in answer.headers
        (model,) = service.get("/v1/models").json()["data"]
        assert (model["status"]["value"], model["status"]["failed"]) == ("unloaded", True)
        assert service.servers() == []


def test_a_virtual_name_is_answered_by_the_next_model_where_a_load_fails(tmp_path: Path):
    """And then by the one that is loaded, without another try of the first."""
    demo = write_demo_model(tmp_path / "models" / "demo")
    write_unknown_architecture(tmp_path / "models" / "strange.gguf")
    settings = {"ANY_OF": json.dumps({"fast": ["strange", "demo"]}), "CATALOG__DEFAULT_MODEL": "fast"}
    with serving(tmp_path, "--models-dir", str(demo.parent.parent), **settings) as service:
        for stream in (True, False):
            answer = service.chat("fast", max_tokens=1, stream=stream)
            assert (answer.status_code, answer.headers["x-llama-smart-proxy-model"]) == (200, "demo")
            assert (b"[DONE]" in answer.content) == stream
        assert service.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1}).json()["model"] == "demo"
        assert service.post("/models/unload", {"model": "fast"}).json() == {"success": True}
        assert service.servers() == []
        assert service.post("/models/load", {"model": "FAST"}).json() == {"success": True}
        wait_for(lambda: service.get("/slots?model=fast").status_code == 200, 20)
        virtual = service.get("/v1/models/fast").json()
        assert (virtual["id"], virtual["any_of"]) == ("fast", ["strange", "demo"])
        assert virtual["status"]["value"] == "loaded"
        assert "fast" in [entry["id"] for entry in service.get("/v1/models").json()["data"]]
        starts = [line for line in service.get("/metrics").text.splitlines() if "server_starts_total{" in line]
        assert [line.split()[-1] for line in starts if "strange" in line] == ["1.0"]


def write_unknown_architecture(path: Path) -> None:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "strange")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", numpy.zeros((8, 8), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
