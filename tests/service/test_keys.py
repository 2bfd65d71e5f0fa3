"""Keys and authorization, on the running service: who may send which request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.helpers.service import Service, serving, wait_for
from tests.service.test_bad_requests import MIB, answer_to, plain
from workers.catalog.demo_model import write_demo_model

USER, ADMIN, NARROW = "key-of-a-user", "key-of-the-admin", "ключ"
SECRETS = (USER, ADMIN, NARROW)


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = [
    {"name": "user", "sha256": hashed(USER)},
    {"name": "admin", "sha256": hashed(ADMIN), "admin": True},
    {"name": "narrow", "sha256": hashed(NARROW), "models": ["other-*", "gpt"]},
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("keys")
    with serving(folder, KEYS=json.dumps(KEYS)) as running:
        running.url  # noqa: B018 - waits until it is ready
        yield running


def ask(service: Service, path: str, key: str = "", method: str = "GET", **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
    headers |= options.pop("headers", {})
    return requests.request(method, service.url + path, headers=headers, timeout=30, **options)


def chat(service: Service, key: str = "", model: str = "demo", **options: Any) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
    return ask(service, "/v1/chat/completions", key, "POST", json=body, **options)


def outcome(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"] if answer.status_code >= 400 else ""


UNKNOWN = (404, "model_not_found")
QUOTA_MESSAGE = (
    r"the key 'admin' has used \d+ of its 50 tokens of \d{4}-\d\d-\d\d \(UTC\); "
    r"it can be used again from \d{4}-\d\d-\d\d 00:00 UTC"
)
BRIEF = {"model": "demo", "prompt": "x", "max_tokens": 1}
OK, NO_KEY, FORBIDDEN = (200, ""), (401, "invalid_api_key"), (403, "not_allowed")

# Route -> outcome without a key, with a key, with an admin key.
ROUTES = {
    ("GET", "/livez"): (OK, OK, OK),
    ("GET", "/readyz"): (OK, OK, OK),
    ("GET", "/health"): (OK, OK, OK),
    ("GET", "/"): (NO_KEY, OK, OK),
    ("HEAD", "/"): (OK, OK, OK),
    ("GET", "/ui"): (NO_KEY, OK, OK),  # of the page to which it leads
    ("GET", "/static/0/status.css"): (OK, OK, OK),
    ("GET", "/status"): (NO_KEY, OK, OK),
    ("GET", "/status/history"): (NO_KEY, OK, OK),
    ("GET", "/logs"): (NO_KEY, FORBIDDEN, OK),
    ("GET", "/v1/health/"): (OK, OK, OK),
    ("GET", "/v1/props"): (NO_KEY, OK, OK),
    ("GET", "/v1/models"): (NO_KEY, OK, OK),
    ("GET", "/v1/models/demo"): (NO_KEY, OK, OK),
    ("GET", "/api/tags"): (NO_KEY, OK, OK),
    ("GET", "/api/ps"): (NO_KEY, OK, OK),
    ("GET", "/api/version"): (NO_KEY, OK, OK),
    ("POST", "/api/show"): (NO_KEY, OK, OK),
    ("POST", "/api/chat"): (NO_KEY, OK, OK),
    ("POST", "/api/pull"): (NO_KEY, OK, OK),
    ("POST", "/api/copy"): (NO_KEY, (501, ""), (501, "")),
    ("DELETE", "/api/delete"): (NO_KEY, FORBIDDEN, (400, "")),  # a body names the model
    ("POST", "/models/pull"): (NO_KEY, OK, OK),  # it is here
    ("POST", "/models"): (NO_KEY, OK, OK),
    ("DELETE", "/models/nope"): (NO_KEY, FORBIDDEN, UNKNOWN),
    ("DELETE", "/models?model=nope"): (NO_KEY, FORBIDDEN, UNKNOWN),
    ("GET", "/props"): (NO_KEY, OK, OK),
    ("GET", "/metrics"): (OK, OK, OK),  # allowed from loopback
    ("GET", "/sd"): (OK, OK, OK),
    ("POST", "/v1/chat/completions"): (NO_KEY, OK, OK),
    ("GET", "/running"): (NO_KEY, OK, OK),
    ("GET", "/plan"): (NO_KEY, OK, OK),
    ("POST", "/plan"): (NO_KEY, (400, "invalid_request"), (400, "invalid_request")),  # no option is called messages
    ("GET", "/upstream/demo/health"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/upstream/demo/tokenize"): (NO_KEY, FORBIDDEN, OK),
    ("GET", "/upstream/nope/health"): (NO_KEY, FORBIDDEN, UNKNOWN),
    ("GET", "/upstream/demo/tools"): (NO_KEY, FORBIDDEN, (404, "not_found")),
    ("POST", "/api/models/unload/demo"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/api/models/unload"): (NO_KEY, FORBIDDEN, OK),
    ("GET", "/unload"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/models/load"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/models/unload"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/models/pin"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/models/unpin"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/admin/reload"): (NO_KEY, FORBIDDEN, OK),
    ("POST", "/slots/0?action=erase&model=demo"): (NO_KEY, FORBIDDEN, (501, "")),  # not without --slot-save-path
    ("POST", "/lora-adapters?model=demo"): (NO_KEY, FORBIDDEN, (400, "")),  # it wants a list
    ("POST", "/v1/stream"): (NO_KEY, (404, "not_found"), (404, "not_found")),
    ("GET", "/nowhere"): (NO_KEY, (404, "not_found"), (404, "not_found")),
    ("POST", "/nowhere"): (NO_KEY, (404, "File Not Found"), (404, "File Not Found")),  # llama-server's own answer
    ("POST", "/tools"): (NO_KEY, (404, "not_found"), (404, "not_found")),
    ("DELETE", "/v1/models"): (NO_KEY, (405, "method_not_allowed"), (405, "method_not_allowed")),
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: " ".join(route))
def test_a_route_is_open_to_the_right_clients(service: Service, route: tuple[str, str]):
    method, path = route
    body = {"model": "demo", "messages": [], "max_tokens": 1} if method == "POST" else None
    got = [ask(service, path, key, method, json=body) for key in ("", USER, ADMIN)]
    for answer, (status, code) in zip(got, ROUTES[route], strict=True):
        assert answer.status_code == status
        if status >= 400 and code not in ("", "File Not Found") and not path.startswith("/api/"):
            assert answer.json()["error"]["code"] == code


def test_every_route_is_in_the_table():
    """A new route requires a key by default; this table records that it was a decision."""
    from flask import Flask

    from app.routes import authorization
    from app.web import BLUEPRINTS

    app = Flask("app")
    for routes in BLUEPRINTS:
        app.register_blueprint(routes.bp)
    views = {rule.endpoint for rule in app.url_map.iter_rules()} - {"static"}
    assert views == {
        *(
            "health.show_health",
            "health.alive",
            "health.ready",
            "metrics.show_metrics",
            "metrics.list_targets",
            "status.show_status",
        ),
        "assets.show_asset",
        *("logs.show_logs", "logs.stream_service_log", "logs.stream_engine_log"),
        *(
            "status.answer_probe",
            "status_report.show_report",
            "status_report.show_history",
            "status_stream.stream_status",
        ),
        *("models.list_models", "models.show_model", "models.load", "models.unload", "models.props"),
        *("llama_swap.list_running", "llama_swap.unload_by_get", "llama_swap.unload_all", "llama_swap.unload_one"),
        *("plan.show_plans", "plan.plan_one", "pins.pin", "pins.unpin"),
        *("model_events.stream_events", "upstream.forward_upstream"),
        *("models.reject_get", "configuration.reload_configuration"),
        *("ollama.forward_translated", "ollama.show_version", "ollama.list_tags", "ollama.list_processes"),
        *("downloads.pull_model", "downloads.pull_like_router"),
        *("downloads.remove_model", "downloads.remove_like_router", "ollama.delete"),
        *("ollama.show_details", "ollama.pull", "ollama.reject_file_command", "ollama.reject_copy"),
        "inference.forward",
        "decisions.show_decisions",
        "llama_swap.redirect_to_page",
    }
    assert (
        views
        > authorization.PUBLIC | authorization.ADMIN | authorization.STATE_CHANGING | authorization.PUBLIC_ON_LOOPBACK
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {USER}"},
        {"Authorization": f"bearer {USER}"},
        {"x-api-key": USER},
        {"api-key": USER},
        {"Authorization": "Basic " + base64.b64encode(f"anybody:{USER}".encode()).decode()},
        {"Authorization": "Bearer none", "x-api-key": USER},
    ],
)
def test_a_key_is_accepted_in_three_headers(service: Service, headers: dict[str, str]):
    assert outcome(chat(service, headers=headers)) == OK


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {hashed(USER)}"},
        {"Authorization": USER},
        {"x-api-key": USER + "x"},
        {"Cookie": f"key={USER}"},
        {"Authorization": "Basic !!!"},
    ],
)
def test_an_invalid_key_is_answered_with_how_to_send_one(service: Service, headers: dict[str, str]):
    answer = chat(service, headers=headers)
    assert outcome(answer) == NO_KEY
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Retry-After" not in answer.headers


def test_the_page_makes_browsers_prompt_for_a_password(service: Service):
    """One header line per scheme: Chromium does not prompt if one line has both."""
    with service.connect() as connection:
        connection.sendall(plain("GET", "/", "Connection: close"))
        head = connection.makefile("rb").read()
    assert head.count(b"WWW-Authenticate: Bearer\r\n") == head.count(b"WWW-Authenticate: Basic realm=") == 1
    assert requests.get(service.url + "/", auth=("me", USER), timeout=10).status_code == 200


def test_the_key_is_checked_before_the_body_is_read(service: Service):
    """Content-Length announces 300 MB; none are sent."""
    began = time.monotonic()
    answer = answer_to(service, plain("POST", "/v1/chat/completions", f"Content-Length: {300 * MIB}"))
    assert (answer.status, time.monotonic() - began < 5) == (401, True)


def test_an_openai_client_uses_its_key(service: Service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=USER, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["demo"]
    wrong = openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with wrong as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_key_can_use_and_see_only_its_models(service: Service):
    chat(service, USER)
    assert outcome(ask(service, "/v1/models/demo", NARROW)) == UNKNOWN
    lists = ("/", "/status", "/v1/models", "/health", "/metrics", "/sd", "/props", "/api/tags", "/api/ps", "/plan")
    for path in lists:
        assert "demo" not in ask(service, path, NARROW).text, path
    assert "llama_smart_proxy_requests_total" not in ask(service, "/metrics", NARROW).text
    assert 'llama_smart_proxy_requests_total{code="200"' in ask(service, "/metrics", USER).text


def test_prometheus_finds_the_models_that_its_key_may_use(service: Service):
    chat(service, USER)
    address = service.url.removeprefix("http://")
    kinds = {}
    for key in (USER, NARROW, ""):
        targets = ask(service, "/sd", key).json()
        assert {target for each in targets for target in each["targets"]} == {address}
        kinds[key] = [each["labels"]["__meta_llama_smart_proxy_kind"] for each in targets]
    assert kinds == {USER: ["service", "engine"], NARROW: ["service"], "": ["service", "engine"]}
    assert outcome(ask(service, "/sd", USER, headers={"Host": "a b"})) == (400, "invalid_request")


def test_only_an_admin_unloads_a_model_by_ollamas_api(service: Service):
    unload = {"model": "demo", "keep_alive": 0}
    chat(service, USER)
    refused = ask(service, "/api/generate", USER, "POST", json=unload)
    assert (refused.status_code, [*refused.json()]) == (403, ["error"])
    assert ask(service, "/api/generate", ADMIN, "POST", json=unload).json()["done_reason"] == "unload"


def test_a_model_of_others_is_answered_like_a_name_that_does_not_exist(service: Service):
    """403 against 404 told which names exist."""
    chat(service, USER)

    def answer(name: str, **options: Any) -> tuple[int, str]:
        got = chat(service, NARROW, name, **options)
        return got.status_code, got.text.replace(name, "NAME")

    assert answer("demo") == answer("nope")
    assert outcome(chat(service, NARROW)) == UNKNOWN
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/pull", "/plan"):
        theirs, nobodys = (ask(service, path, NARROW, "POST", json={"model": name}) for name in ("demo", "nope"))
        assert (theirs.status_code, theirs.text.replace("demo", "nope")) == (404, nobodys.text), path
    for path in ("/slots?model=", "/metrics?model=", "/props?model=", "/v1/models/", "/models/"):
        theirs, nobodys = (ask(service, path + name, NARROW) for name in ("demo", "nope"))
        assert (theirs.status_code, theirs.text.replace("demo", "nope")) == (404, nobodys.text), path


def test_a_key_can_use_every_model_it_can_see(tmp_path: Path):
    """Access depends on the names under which a model is listed, not on the requested name."""
    demo = str(write_demo_model(tmp_path / "written"))
    models = {"mini": {"path": demo, "aliases": ["gpt-4o-mini"]}, "secret": {"path": "gpt-5.gguf"}}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gpt-5.gguf").write_bytes(Path(demo).read_bytes())
    keys = [{"name": "a", "sha256": hashed(USER), "models": ["gpt-*"]}]
    folder = str(tmp_path / "models")
    with serving(tmp_path, "--models-dir", folder, KEYS=json.dumps(keys), MODELS=json.dumps(models)) as service:
        assert [model["id"] for model in ask(service, "/v1/models", USER).json()["data"]] == ["mini"]
        assert outcome(chat(service, USER, "mini")) == outcome(chat(service, USER, "gpt-4o-mini")) == OK
        assert outcome(chat(service, USER, "secret")) == outcome(chat(service, USER, "gpt-5")) == UNKNOWN


def test_health_is_minimal_for_anonymous_clients(service: Service):
    assert ask(service, "/health").json() == {"status": "ok", "degraded": False}
    assert ask(service, "/health", "wrong").json() == {"status": "ok", "degraded": False}
    assert "servers" in ask(service, "/health", USER).json()


@pytest.mark.parametrize(
    "headers", [{"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}, {"Host": "proxy.example"}]
)
def test_metrics_require_a_key_through_a_proxy(service: Service, headers: dict[str, str]):
    assert outcome(ask(service, "/metrics", headers=headers)) == NO_KEY
    assert ask(service, "/metrics", USER, headers=headers).status_code == 200


def test_metrics_of_a_model_always_require_a_key(service: Service):
    assert outcome(ask(service, "/metrics?model=demo")) == NO_KEY
    assert outcome(ask(service, "/metrics?model=demo", NARROW)) == UNKNOWN


def test_with_keys_any_host_name_is_accepted(service: Service):
    assert outcome(chat(service, USER, headers={"Host": "llm.example"})) == OK


def test_a_password_stored_by_a_browser_cannot_load_models(service: Service):
    """Another site's page can post a form here, and the browser adds the stored password."""
    body = json.dumps({"model": "demo"})
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def unload(**origin: str) -> requests.Response:
        headers = form | origin
        return requests.post(service.url + "/models/unload", data=body, headers=headers, auth=("me", ADMIN), timeout=30)

    assert outcome(unload(Origin="http://evil.example")) == NO_KEY
    assert outcome(unload()) == outcome(unload(Origin=service.url)) == OK
    assert outcome(ask(service, "/models/unload", ADMIN, "POST", data=body, headers=form)) == OK


def test_a_key_that_may_not_unload_cannot_do_so_by_keep_alive(service: Service):
    chat(service, USER)
    assert outcome(ask(service, "/v1/completions", USER, "POST", json=BRIEF | {"keep_alive": 0})) == OK
    assert [server["state"] for server in ask(service, "/health", USER).json()["servers"]] == ["ready"]
    assert outcome(ask(service, "/v1/completions", ADMIN, "POST", json=BRIEF | {"keep_alive": 0})) == OK
    wait_for(lambda: ask(service, "/health", USER).json()["servers"] == [], 20)


def test_no_key_is_found_anywhere(service: Service):
    """Neither our keys nor the engine's, in any form: not in answers, the log, arguments, environments or files."""
    wrong = "a-key-of-nobody"
    encoded = {key: base64.b64encode(f"me:{key}".encode()).decode() for key in (USER, ADMIN, wrong)}
    for key in encoded:
        chat(service, key)
        ask(
            service,
            "/models/unload",
            headers={"Authorization": f"Basic {encoded[key]}", "Origin": "http://evil.example"},
        )
    chat(service, USER)
    (engine,) = service.engines()
    environ = engine.environ()
    own = environ.pop("LLAMA_API_KEY")
    paths = ("/health", "/v1/models/demo", "/metrics", "/", "/props", "/decisions", "/nowhere", "/slots/0")
    texts = {f"{path} for {key}": ask(service, path, key).text for path in paths for key in (ADMIN, USER, wrong)}
    running = [process for process in service.family() if process.is_running()]
    texts |= {f"argv of {process.pid}": " ".join(process.cmdline()) for process in running}
    texts |= {"log": service.output, "environment of the engine": str(environ)}
    wait_for(lambda: tokens_in_file(service.folder).keys() >= {"user"}, 20)
    texts |= {str(file): file.read_bytes().decode("latin-1") for file in written_files(service.folder)}
    for secret in (*SECRETS, wrong, own, *map(hashed, (*SECRETS, wrong)), *encoded.values()):
        assert [place for place, text in texts.items() if secret in text] == []
    assert not [name for name in environ if name.startswith("LLAMA_SMART_PROXY")]


def written_files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".gguf"]


def test_a_key_is_limited_in_requests_per_minute_and_tokens_per_day(tmp_path: Path):
    keys = [{**KEYS[0], "requests_per_minute": 3}, {**KEYS[1], "tokens_per_day": 50}, {**KEYS[2], "models": ["*"]}]
    with serving(tmp_path, KEYS=json.dumps(keys)) as service:
        assert [outcome(chat(service, USER)) for _ in range(3)] == [OK] * 3
        refused = chat(service, USER)
        assert outcome(refused) == (429, "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert ask(service, "/v1/models", USER).status_code == 200, "only inference is counted"
        assert outcome(chat(service, ADMIN)) == OK, "each key is counted separately"
        used = 0
        while (answer := chat(service, ADMIN)).status_code == 200:
            used += answer.json()["usage"]["total_tokens"]
            assert used < 100, "the request that crosses the limit is the last one"
        assert outcome(answer) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false" and "Retry-After" not in answer.headers
        assert re.fullmatch(QUOTA_MESSAGE, answer.json()["error"]["message"])
        assert ask(service, "/v1/models", ADMIN).status_code == 200
        assert outcome(chat(service, NARROW)) == OK
        wait_for(lambda: tokens_today(service, "narrow") > 0, 20)
        before = tokens_today(service, "narrow")
        body = {"model": "demo", "prompt": "x" * 900, "max_tokens": 100_000, "stream": True, "ignore_eos": True}
        with ask(service, "/v1/completions", NARROW, "POST", json=body, stream=True) as answer:
            next(answer.iter_content(100))
        wait_for(lambda: tokens_today(service, "narrow") > before + 300, 20)  # though it left before the end
        before = tokens_today(service, "narrow")
        body = {"model": "demo", "prompt": ["x" * 300] * 3, "n_predict": 1, "response_fields": ["content"]}
        assert outcome(ask(service, "/completion", NARROW, "POST", json=body)) == OK
        wait_for(lambda: tokens_today(service, "narrow") > before + 300, 20)  # though its answer has no counts
        wait_for(lambda: tokens_in_file(tmp_path).keys() == {"user", "admin", "narrow"}, 20)


def tokens_today(service: Service, key: str) -> float:
    counted = rf'llama_smart_proxy_key_tokens_today{{key="{key}"}} (.+)'
    return sum(map(float, re.findall(counted, ask(service, "/metrics", key).text)))


def tokens_in_file(folder: Path) -> dict[str, int]:
    files = [*folder.rglob("key-tokens.json")]
    return json.loads(files[0].read_text())["tokens"] if files else {}


def test_an_open_address_requires_keys_or_allow_open(tmp_path: Path):
    with serving(tmp_path, "--host", "0.0.0.0") as service:
        assert service.process.wait(20) == 2
        assert "no keys are configured" in service.output
    with serving(tmp_path, "--host", "0.0.0.0", SERVER__ALLOW_OPEN="true") as service:
        assert requests.get(service.url + "/v1/models", headers={"Host": "llm.example"}, timeout=10).status_code == 200
        assert "No keys are configured" in service.output
