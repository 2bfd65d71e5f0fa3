"""A reload of the configuration under load: what is unchanged does not notice, and a broken file changes nothing.

All tests share one service; each writes the whole configuration that it needs.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import yaml
from click.testing import CliRunner

from app.commands.cli import main
from tests.helpers.builders import GIB, a_gguf
from tests.helpers.service import ENDLESS, Service, serving, wait_for
from tests.service.test_bad_requests import answer_to, plain
from workers.catalog.demo_model import write_demo_model

ADMIN, USER, OTHER_USER = "admin-key", "user-key", "other-key"
# Each token is 2 KB, more than the buffers between the client and the engine hold: a stream that is not read waits.
LONG_STREAM = {**ENDLESS, "stream": True, "logprobs": True, "top_logprobs": 20}
CHUNKED = "Transfer-Encoding: chunked"
CHAT = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}


class Reloaded:
    """The service, its configuration file, and an admin's requests."""

    def __init__(self, service: Service, file: Path, model: Path) -> None:
        self.service, self.file, self.model = service, file, model
        self.site = file.parent / "site"  # on the import path

    def settings(self, **changes: Any) -> dict[str, Any]:
        keys = {ADMIN: {"admin": True}, USER: {}}
        return {
            "keys": [
                {"name": key, "sha256": hashlib.sha256(key.encode()).hexdigest(), **more} for key, more in keys.items()
            ],
            "models": {"kept": {"path": str(self.model)}, "edited": {"path": str(self.model)}},
            **changes,
        }

    def models(self, **models: dict[str, Any] | None) -> dict[str, Any]:
        """The settings with other models; None: without that one."""
        known = self.settings()["models"]
        known |= {name: {"path": str(self.model), **more} for name, more in models.items() if more is not None}
        return self.settings(models={name: each for name, each in known.items() if models.get(name, {}) is not None})

    def write(self, settings: dict[str, Any] | str) -> None:
        """Replaced whole, as editors do: a reload never reads half a file."""
        new = self.file.with_name(f"{threading.get_ident()}.new")
        new.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        new.replace(self.file)

    def reload(self, settings: dict[str, Any] | str, key: str = ADMIN) -> requests.Response:
        self.write(settings)
        return self.request("POST", "/admin/reload", key, json={})

    def request(self, method: str, path: str, key: str = ADMIN, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return requests.request(method, self.service.url + path, headers=headers, timeout=60, **more)

    def chat(self, model: str, key: str = USER, **fields: Any) -> requests.Response:
        body = {"model": model, **CHAT, **fields}
        return self.request("POST", "/v1/chat/completions", key, json=body, stream=bool(fields.get("stream")))

    def health(self, key: str = ADMIN) -> dict[str, Any]:
        report: dict[str, Any] = self.request("GET", "/health", key).json()
        return report

    def servers(self, model: str) -> list[dict[str, Any]]:
        return [server for server in self.health()["servers"] if server["model_id"] == model]

    def metric(self, name: str) -> float:
        lines = self.request("GET", "/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"llama_smart_proxy_config_{name} ")).split()[1])


def begun(stream: requests.Response) -> Iterator[bytes]:
    """The lines of a stream, after the first token: comments about the load come before."""
    lines: Iterator[bytes] = stream.iter_lines()
    wait_for(lambda: next(lines).startswith(b"data:"), 20)
    return lines


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloaded]:
    folder = tmp_path_factory.mktemp("reload")
    (folder / "site").mkdir()  # before the start: Python remembers that a folder is missing
    file, model = folder / "config.yaml", write_demo_model(folder / "models")
    file.write_text(yaml.safe_dump(Reloaded(None, file, model).settings()))  # type: ignore[arg-type]
    with serving(folder, "--config", str(file), plain={"PYTHONPATH": str(folder / "site")}) as service:
        service.url  # noqa: B018 - waits until it is ready: it has read the file
        yield Reloaded(service, file, model)


@pytest.fixture
def proxy(running: Reloaded) -> Iterator[Reloaded]:
    yield running
    assert running.reload(running.settings()).status_code == 200


def test_a_stream_notices_nothing_of_edits_and_broken_files(proxy: Reloaded):
    """Ten reloads by command and by HUP, five of them of broken files."""
    failures = proxy.metric("reload_failures_total")
    with proxy.chat("kept", **LONG_STREAM) as stream:
        lines = begun(stream)
        before = proxy.servers("kept")
        for number in range(5):
            edited = proxy.models(edited={"parallel": 1 + number}, kept={"ttl_seconds": 500 + number, "pin": True})
            assert proxy.reload(edited).json()["changed"]
            proxy.write("models: {kept: [}")
            proxy.service.process.send_signal(signal.SIGHUP)
            wait_for(lambda number=number: proxy.metric("reload_failures_total") == failures + number + 1, 20)
        assert [(server["id"], server["process"], server["state"]) for server in before] == [
            (server["id"], server["process"], server["state"]) for server in proxy.servers("kept")
        ]
        text = [next(lines) for _ in range(2000)]
        assert not [line for line in text if b"error" in line]


def test_a_changed_model_finishes_its_stream_and_starts_anew_with_the_next_request(proxy: Reloaded):
    with proxy.chat("edited", **LONG_STREAM) as stream:
        lines = begun(stream)
        (old,) = proxy.servers("edited")
        report = proxy.reload(proxy.models(edited={"parallel": 2})).json()
        assert report["models"]["restarted"] == ["edited"]
        assert [server["state"] for server in proxy.servers("edited")] == ["draining"]
        assert all(next(lines) is not None for _ in range(50))
    assert proxy.chat("edited").status_code == 200
    (new,) = proxy.servers("edited")
    assert (old["slots"], new["slots"]) == (4, 2)
    assert new["process"] != old["process"]


def test_a_removed_model_goes_and_a_new_one_is_served(proxy: Reloaded):
    assert proxy.chat("edited").status_code == 200
    models = proxy.reload(proxy.models(edited=None, added={"preload": True})).json()["models"]
    assert (models["added"], models["removed"]) == (["added"], ["edited"])
    wait_for(lambda: not proxy.servers("edited") and proxy.servers("added"), 20)  # `added` is preloaded
    assert proxy.chat("edited").status_code == 404
    assert proxy.chat("added").status_code == 200


def test_a_replaced_key_is_refused_at_once_and_its_stream_runs_on(proxy: Reloaded):
    settings = proxy.settings()
    settings["keys"][1]["sha256"] = hashlib.sha256(OTHER_USER.encode()).hexdigest()
    with proxy.chat("kept", USER, **LONG_STREAM) as stream:
        lines = begun(stream)
        assert proxy.reload(settings).json()["changed"] == ["keys"]
        assert proxy.chat("kept", USER).status_code == 401
        assert proxy.chat("kept", OTHER_USER).status_code == 200
        assert all(next(lines) is not None for _ in range(50))


def test_variants_are_names_of_one_server_and_change_their_requests_from_the_reload_on(proxy: Reloaded):
    """A large body too, which the body reader rewrites."""
    assert proxy.chat("kept").status_code == 200
    (server,) = proxy.servers("kept")
    short = {"set": {"max_tokens": 2, "system_prompt": "Be brief."}}
    of_model = {"default": {"max_tokens": 3}, "set": {"system_prompt": "Be polite."}}
    rules = {"requests": of_model, "variants": {"short": short}}
    assert proxy.reload(proxy.models(kept=rules)).json()["models"]["updated"] == ["kept"]
    listed = {entry["id"]: entry for entry in proxy.request("GET", "/v1/models").json()["data"]}
    assert listed["short"] == listed["kept"] | {"id": "short", "parent": "kept"}
    assert proxy.request("GET", "/v1/models/short").json()["id"] == "short"
    messages = [{"role": "user", "content": "x" * 300_000}]
    for name, body, tokens in (
        ("kept", {"max_tokens": None}, 3),
        ("kept", {}, 4),
        ("short", {}, 2),
        ("short", {"ignored": "x" * 300_000}, 2),
    ):
        answer = proxy.chat(name, **body)
        assert (answer.json()["usage"]["completion_tokens"], answer.json()["model"]) == (tokens, "kept")
        assert answer.headers["x-llama-smart-proxy-model"] == "kept"
    for path, name, prompts in (
        ("/apply-template", "short", {"Be brief."}),
        ("/apply-template", "kept", {"Be polite."}),
        ("/upstream/short/apply-template", "kept", set()),
    ):
        template = proxy.request("POST", path, json={"model": name, "messages": messages}).json()["prompt"]
        assert {prompt for prompt in ("Be brief.", "Be polite.") if prompt in template} == prompts
    chat = {"model": "short", "messages": CHAT["messages"], "stream": False, "options": {"num_predict": 9}}
    translated = proxy.request("POST", "/api/chat", USER, json=chat).json()
    assert (translated["eval_count"], translated["model"]) == (2, "kept")
    assert proxy.request("POST", "/models/load", json={"model": "short"}).json() == {"success": True}
    assert [each["process"] for each in proxy.servers("kept")] == [server["process"]]
    assert proxy.reload(proxy.settings()).json()["models"]["restarted"] == []
    assert proxy.chat("short").status_code == 404


def install(site: Path, entry_points: str, **modules: str) -> None:
    """Put a distribution into a folder of the import path, as pip does."""
    info = site / "an_agent-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: an-agent\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llama_smart_proxy.agents]\n{entry_points}\n")
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)


BAD_AGENTS = """
def fail(body):
    raise KeyError(body["messages"])

def nothing(body):
    body.clear()

def number(body):
    return 5

def no_choices(body):
    return {"choices": None}

def set_result(body):
    return {"messages": {1}}

def too_much(body):
    return body | {"n_probs": 1000}
"""


def test_agents_change_or_answer_the_requests_that_call_them(proxy: Reloaded):
    """With the example of the page about them, and an agent for each way to fail."""
    page = (Path(__file__).parents[2] / "docs/agents.md").read_text()
    code, project = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "toml"))
    example = tomllib.loads(project)["project"]["entry-points"]["llama_smart_proxy.agents"]
    failing = ["fail", "nothing", "no_choices", "number", "set_result", "too_much"]
    unusable = {"gone": "no_such_module:x", "constant": "bad_agents:__name__"}
    points = example | {name: f"bad_agents:{name}" for name in failing} | unusable
    install(proxy.site, "\n".join(f"{name} = {point}" for name, point in points.items()), upper_agent=code,
            bad_agents=BAD_AGENTS)  # fmt: skip

    def say(text: str, **fields: Any) -> requests.Response:
        return proxy.chat("kept", **{"messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields})

    assert say("/upper").json()["usage"]["completion_tokens"] == 2  # none is enabled
    assert (
        proxy.reload(proxy.settings(agents=["no"]))
        .json()["error"]["errors"][0]
        .endswith("agents: no not installed; entry points of llama_smart_proxy.agents: " + ", ".join(sorted(points)))
    )
    for name, problem in (
        ("gone", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("constant", "is not a function, but str"),
    ):
        refused = proxy.reload(proxy.settings(agents=[name])).json()["error"]
        assert refused["errors"] == [f"agents: {name} {problem}"]
    assert proxy.reload(proxy.settings(agents=["upper", *failing])).json()["changed"] == ["agents"]
    assert say("Hello /upper").json()["usage"]["completion_tokens"] == 2
    answer = say(" /upper ")
    assert answer.json()["choices"][0]["message"]["content"] == "Usage: /upper TEXT"
    assert (answer.json()["choices"][0]["index"], answer.json()["choices"][0]["finish_reason"]) == (0, "stop")
    assert (answer.json()["model"], answer.headers["x-llama-smart-proxy-model"]) == ("kept", "kept")
    with openai.OpenAI(base_url=f"{proxy.service.url}/v1", api_key=USER, max_retries=0) as client:
        hello: Any = [{"role": "user", "content": "/upper"}]
        (chunk,) = client.chat.completions.create(model="kept", messages=hello, stream=True)
    assert (chunk.choices[0].delta.content, chunk.choices[0].finish_reason) == ("Usage: /upper TEXT", "stop")
    assert say("/nothing").json()["usage"]["completion_tokens"] == 2
    for name, said in (
        ("fail", "agent fail failed: KeyError; the log has its traceback"),
        ("no_choices", "agent no_choices returned choices that are not a list of objects"),
        ("number", "agent number returned int instead of a request or an answer"),
        (
            "set_result",
            "agent set_result returned a value that is not JSON: Object of type set is not JSON serializable",
        ),
    ):
        answer = say(f"/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_failed")
        assert answer.json()["error"]["message"] == said
    assert (say("/too_much").status_code, say("/too_much").json()["error"]["param"]) == (400, "n_probs")
    large = say("/upper " + "x" * 300_000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


PAGE = "https://chat.example.org"


def test_a_page_of_another_site_may_use_the_service_once_its_origin_is_listed(proxy: Reloaded):
    """Preflights without a key, and the headers on streams, small answers, our errors and those of the worker."""

    def options() -> requests.Response:
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        asked |= {"Access-Control-Request-Headers": "authorization,content-type"}
        return requests.options(proxy.service.url + "/v1/chat/completions", headers=asked, timeout=20)

    assert options().status_code == 401
    assert proxy.reload(proxy.settings(server={"cors_origins": [PAGE]})).json()["needs_restart"] == []
    allowed = options()
    assert (allowed.status_code, allowed.content) == (204, b"")
    assert allowed.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {USER}"}
    body = {"model": "kept", **CHAT}
    for answer in (
        requests.get(proxy.service.url + "/v1/models", headers=page, timeout=20),
        requests.post(proxy.service.url + "/v1/chat/completions", headers=page, json=body, timeout=60),
        requests.post(
            proxy.service.url + "/v1/chat/completions", headers=page, json={**body, "stream": True}, timeout=60
        ),
        requests.post(proxy.service.url + "/v1/chat/completions", headers=page, json={"model": "no"}, timeout=20),
        requests.post(proxy.service.url + "/v1/chat/completions", headers={"Origin": PAGE}, json=body, timeout=20),
        requests.get(proxy.service.url + "/nowhere", headers=page, timeout=20),
    ):
        assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["Vary"]) == (PAGE, "Origin")
        assert "x-llama-smart-proxy-model" in answer.headers["Access-Control-Expose-Headers"]
    cut = plain("POST", "/v1/chat/completions", *(f"{name}: {value}" for name, value in page.items()), CHUNKED)
    broken = answer_to(proxy.service, cut + b"no chunk\r\n")
    assert (broken.status, broken.getheader("Access-Control-Allow-Origin")) == (400, PAGE)
    assert proxy.reload(proxy.settings()).status_code == 200
    assert options().status_code == 401


def test_only_an_admin_reloads(proxy: Reloaded):
    assert proxy.reload(proxy.settings(), USER).status_code == 403
    assert proxy.request("POST", "/admin/reload", "wrong").status_code == 401
    assert proxy.request("GET", "/admin/reload").status_code == 405


def test_a_failed_reload_shows_in_health_and_metrics_until_one_succeeds(proxy: Reloaded):
    answer = proxy.reload(proxy.settings(scheduling={"ttl_secs": 5}))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.headers["x-should-retry"]) == (
        *(422, "invalid_configuration", "false"),
    )
    assert [line.partition("config.yaml: ")[2] for line in error["errors"]] == [
        "scheduling.ttl_secs: unknown key; did you mean scheduling.ttl_seconds?"
    ]
    report = proxy.health()
    assert report["degraded"] and report["status"] == "ok"
    assert "did you mean scheduling.ttl_seconds?" in report["reasons"][-1]
    assert proxy.health(USER)["reasons"] == [
        "the configuration was not reloaded, the earlier one stays in force: it is invalid"
    ]
    assert proxy.metric("last_reload_successful") == 0
    loaded_at = proxy.metric("last_reload_success_timestamp_seconds")
    assert proxy.reload(proxy.settings()).status_code == 200
    assert not proxy.health()["degraded"]
    assert proxy.metric("last_reload_successful") == 1
    assert proxy.metric("last_reload_success_timestamp_seconds") > loaded_at


def test_keys_that_wait_for_a_restart_are_named_until_they_are_reverted(proxy: Reloaded):
    report = proxy.reload(proxy.settings(server={"threads": 64}, scheduling={"ttl_seconds": 60})).json()
    assert (report["needs_restart"], report["changed"]) == (["server.threads"], ["scheduling.ttl_seconds"])
    health = proxy.health()
    assert health["configuration"]["needs_restart"] == ["server.threads"]
    assert not health["degraded"]
    assert proxy.reload(proxy.settings()).json()["needs_restart"] == []


def test_pinned_models_that_cannot_fit_are_refused_as_at_start(proxy: Reloaded):
    huge = a_gguf(proxy.model.parent / "huge.gguf", size_bytes=40 * GIB)
    answer = proxy.reload(proxy.models(huge={"path": str(huge), "pin": True}))
    assert answer.status_code == 422
    assert "huge" in answer.json()["error"]["message"]
    assert proxy.chat("huge").status_code == 404


def test_a_pin_by_order_lasts_until_a_reload_changes_the_model(proxy: Reloaded):
    def order(route: str, model: str = "kept") -> int:
        return proxy.request("POST", f"/models/{route}", json={"model": model}).status_code

    def pinned() -> list[bool]:
        models = proxy.request("GET", "/plan", USER).json()["models"]
        return [each["pinned"] for each in models if each["id"] in ("edited", "kept")]

    assert pinned() == [False, False]
    assert (order("pin"), order("pin", "edited"), order("pin", "nope")) == (200, 200, 404)
    assert pinned() == [True, True]
    with proxy.chat("kept", keep_alive=0):
        pass
    (server,) = (each for each in proxy.request("GET", "/status").json()["servers"] if each["model"] == "kept")
    assert (server["state"], server["pinned"], server["unloads_in_seconds"]) == ("ready", True, None)
    assert proxy.reload(proxy.models(edited={"ttl_seconds": 100})).status_code == 200
    assert pinned() == [False, True]
    huge = a_gguf(proxy.model.parent / "huge.gguf", size_bytes=40 * GIB)
    assert proxy.reload(proxy.models(huge={"path": str(huge)})).status_code == 200
    refused = proxy.request("POST", "/models/pin", json={"model": "huge"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "model_does_not_fit")
    assert order("unpin") == 200
    assert pinned() == [False, False]
    assert proxy.request("GET", "/models/pin").status_code == 405


def test_reloads_at_the_same_time_leave_the_last_file_in_force(proxy: Reloaded):
    def edit(number: int) -> int:
        return proxy.reload(proxy.models(edited={"ttl_seconds": 100 + number})).status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = [*threads.map(edit, range(16))]
    assert set(statuses) == {200}
    assert proxy.request("POST", "/admin/reload", json={}).json()["changed"] == []


def test_hup_finds_new_files_and_applies_the_configuration(proxy: Reloaded):
    folder = proxy.file.parent / "more"
    a_gguf(folder / "found.gguf")
    proxy.write(proxy.settings(catalog={"models_dirs": [str(folder)]}))
    proxy.service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "found" in [model["id"] for model in proxy.request("GET", "/v1/models").json()["data"]], 20)


def test_the_command_says_what_changed_and_fails_if_the_service_says_no(
    proxy: Reloaded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LLAMA_SMART_PROXY_URL", proxy.service.url)
    run = CliRunner().invoke
    assert (run(main, ["reload"]).exit_code, run(main, ["reload"]).output) == (
        1,
        f"{proxy.service.url} requires a key: set LLAMA_SMART_PROXY_API_KEY\n",
    )
    monkeypatch.setenv("LLAMA_SMART_PROXY_API_KEY", ADMIN)
    proxy.write(proxy.models(added={}, edited=None))
    result = run(main, ["reload"])
    assert result.exit_code == 0
    assert "Changed keys: models.edited, models.added" in result.output
    assert "  edited: removed" in result.output
    proxy.write("models: [")
    result = run(main, ["reload"])
    assert result.exit_code == 1
    assert "line 1" in result.output
