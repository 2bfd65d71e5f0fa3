"""Models by name: who may order a download, what its progress looks like, and who sees it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.entities.download import DownloadState
from app.entities.download_policy import DownloadPolicy, DownloadRule
from app.entities.key import ApiKey
from app.entities.launch import LaunchSettings
from app.entities.repository import RepositoryFile
from app.errors import DownloadFailed, ModelNotFound, NotSupported, Overloaded
from app.routes import download_orders
from app.routes.visibility import NOT_SHOWN
from app.services import AccessPolicy, RequestSettings
from app.use_cases.downloads.choice import RepositoryModel
from app.use_cases.downloads.repository_plan import QuantPlan
from app.web import create_app
from tests.downloads.test_removal import downloaded
from tests.helpers.builders import GIB, a_gguf, replace
from tests.helpers.connected_client import ConnectedClient
from tests.helpers.scripted_downloads import NOON, PLACES, ScriptedDownloads, some_services
from workers.catalog.catalog import Catalog, ConfiguredModel

OFF = DownloadPolicy()
ON = DownloadPolicy(DownloadRule.ON)
ALLOW = DownloadPolicy(DownloadRule.ALLOW, ("ggml-org/*",))
GEMMA = "ggml-org/gemma-3-270m-it-GGUF:Q8_0"
JSON = {"Content-Type": "application/json"}
DOWNLOADING = {"state": DownloadState.DOWNLOADING, "total_bytes": 8 * GIB, "done_bytes": GIB, "file": "gemma.gguf"}
COMPLETE = {"state": DownloadState.COMPLETE, "total_bytes": 8 * GIB, "done_bytes": 8 * GIB}


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = (
    ApiKey("admin", hashed("admin"), admin=True),
    ApiKey("user", hashed("user")),
    ApiKey("narrow", hashed("narrow"), models=("demo", "unsloth/*")),
    ApiKey("narrow-admin", hashed("narrow-admin"), models=("demo", "unsloth/*"), admin=True),
    ApiKey("slow", hashed("slow"), requests_per_minute=1),
)


def a_quant(name: str, size_bytes: int, problem: str = "") -> QuantPlan:
    return QuantPlan(RepositoryModel(name, "", (RepositoryFile("a.gguf", size_bytes),)), problem=problem)


class World:
    """The application, without a key or with all of `KEYS`."""

    def __init__(self, folder: Path, *script: Any, policy: DownloadPolicy = OFF, keys: tuple[ApiKey, ...] = ()) -> None:
        a_gguf(folder / "demo.gguf")
        self.downloads = ScriptedDownloads(*script)
        access = AccessPolicy(keys=keys, loopback_only=not keys)
        entries = [ConfiguredModel("mine", LaunchSettings(), repo="user/mine-GGUF:Q4_K_M")]
        settings = RequestSettings(access_policy=access, download_policy=policy)
        self.services = some_services(folder, self.downloads, settings, entries)
        self.watched = ConnectedClient()
        self.services.clients.watch = lambda socket: self.watched
        self.client: FlaskClient = create_app(self.services).test_client()

    def send(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> Any:
        headers = {**JSON, **headers} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body)
        return self.client.open(path, method=method, data=data, headers=headers)

    def pull(self, model: str = GEMMA, key: str = "", **fields: Any) -> Any:
        return self.send("POST", "/models/pull", {"model": model, **fields}, key)

    def status(self, key: str = "") -> dict[str, Any]:
        found: dict[str, Any] = self.send("GET", "/status", key=key).json
        return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_orders, "POLL_SECONDS", 0.001)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]


def test_a_download_counts_for_its_key_but_not_for_an_admins(tmp_path: Path):
    world = World(tmp_path, DownloadFailed("cut"), policy=ON, keys=KEYS)
    for key in ("user", "admin"):
        assert world.pull(f"org/of-{key}", key).status_code == 202
    world.send("POST", "/v1/chat/completions", {"model": "org/asked-GGUF:Q4_0", "messages": []}, "user")
    assert world.downloads.keys == ["user", "", "user"]


def test_a_pull_begins_a_download_and_returns_at_once(tmp_path: Path):
    world = World(tmp_path)
    answer = world.pull()
    assert answer.status_code == 202
    assert answer.json == {
        "model": GEMMA,
        "state": "checking",
        "total_bytes": None,
        "done_bytes": 0,
        "bytes_per_second": None,
        "seconds_left": None,
        "file": "",
        "problem": "",
        "code": "",
        "started_at": NOON,
    }
    assert world.downloads.started == [GEMMA]


def test_what_is_no_repository_reaches_no_download(tmp_path: Path):
    world = World(tmp_path, policy=ON)
    for name in ("llama3.2", "../../etc/passwd", "a/..", "-x/--flag", "user/repo:../x", "file:///etc/passwd", "a/b/c"):
        assert code(world.pull(name)) == (400, "invalid_request"), name
        assert world.send("POST", "/api/pull", {"model": name}).status_code == 404, name
    assert world.downloads.started == []


def test_what_is_here_and_is_no_repositorys_is_complete(tmp_path: Path):
    answer = World(tmp_path).pull("demo")
    assert (answer.status_code, answer.json["state"], answer.json["model"]) == (200, "complete", "demo")


def test_the_name_of_a_configured_model_means_its_repository(tmp_path: Path):
    world = World(tmp_path)
    world.pull("mine")
    assert world.downloads.started == ["user/mine-GGUF:Q4_K_M"]


@pytest.mark.parametrize(
    ("policy", "key", "name", "expected"),
    [
        (OFF, "admin", GEMMA, 202),
        (OFF, "user", GEMMA, 403),
        (ALLOW, "user", GEMMA, 202),
        (ALLOW, "user", "unsloth/x-GGUF", 403),
        (ALLOW, "user", "mine", 202),
        (OFF, "user", "mine", 403),
        (ON, "user", "unsloth/x-GGUF", 202),
        (OFF, "user", "demo", 200),
        (ON, "narrow", GEMMA, 404),
        (ON, "narrow", "mine", 400),
        (ON, "narrow", "unsloth/x-GGUF", 202),
        (OFF, "narrow-admin", GEMMA, 404),
        (OFF, "narrow-admin", "unsloth/x-GGUF:Q8_0", 202),
    ],
)
def test_admins_may_pull_and_others_what_the_settings_allow(tmp_path: Path, policy, key, name, expected):
    world = World(tmp_path, policy=policy, keys=KEYS)
    assert world.pull(name, key).status_code == expected
    for path in ("/models", "/api/pull"):
        answer = world.send("POST", path, {"model": name}, key)
        assert answer.status_code == {202: 200, 400: 400 if path == "/models" else 404}.get(expected, expected), path
    assert bool(world.downloads.started) == (expected == 202)
    assert world.pull(name).status_code == 401


def test_a_web_page_of_another_site_pulls_and_deletes_nothing(tmp_path: Path):
    world = World(tmp_path, policy=ON)
    page = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    for method, path in (
        ("POST", "/models/pull"),
        ("POST", "/models"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("DELETE", "/models/demo"),
        ("DELETE", "/models?model=demo"),
    ):
        assert world.send(method, path, {"model": GEMMA}, **page).status_code == 403, path
    assert world.send("POST", "/models/pull", {"model": GEMMA}, **{"Content-Type": "text/plain"}).status_code == 400
    assert (world.downloads.started, world.downloads.removed) == ([], [])


def test_a_plan_downloads_nothing_and_says_what_there_is(tmp_path: Path):
    world = World(tmp_path)
    world.downloads.quants = a_quant("ggml-org/x-GGUF:Q4_0", 1), a_quant("ggml-org/x-GGUF:Q8_0", 2, "is damaged")
    answer = world.pull("hf.co/ggml-org/x-GGUF", plan=True)
    assert (answer.status_code, answer.json["model"]) == (200, "ggml-org/x-GGUF")
    assert [(row["name"], row["size_bytes"], row["problem"]) for row in answer.json["quants"]] == [
        ("ggml-org/x-GGUF:Q8_0", 2, "is damaged"),
        ("ggml-org/x-GGUF:Q4_0", 1, ""),
    ]
    assert (world.downloads.started, world.downloads.planned) == ([], ["ggml-org/x-GGUF"])


def test_a_plan_is_for_those_who_may_pull_and_shows_what_their_key_may_use(tmp_path: Path):
    world = World(tmp_path, policy=ALLOW, keys=KEYS)
    world.downloads.quants = a_quant("unsloth/x:Q4_0", 1), a_quant("other/x:Q4_0", 1)
    for key, name, expected in (
        ("admin", "unsloth/x", 200),
        ("user", "ggml-org/x", 200),
        ("user", "unsloth/x", 403),
        ("narrow", "ggml-org/x", 404),
        ("narrow-admin", "unsloth/x", 200),
        ("admin", "../x", 400),
    ):
        assert world.pull(name, key, plan=True).status_code == expected, (key, name)
    assert world.downloads.planned == ["unsloth/x", "ggml-org/x", "unsloth/x"]
    seen = world.pull("unsloth/x", "narrow-admin", plan=True).json["quants"]
    assert [row["name"] for row in seen] == ["unsloth/x:Q4_0"]


def test_a_plan_that_failed_is_its_error(tmp_path: Path):
    world = World(tmp_path)
    world.downloads.problem = DownloadFailed("gated")
    assert code(world.pull(plan=True)) == (502, "download_failed")


def test_a_stream_ends_with_the_last_state(tmp_path: Path):
    script = DOWNLOADING, DOWNLOADING | {"done_bytes": 2 * GIB, "bytes_per_second": GIB}, COMPLETE
    answer = World(tmp_path, *script).pull(stream=True)
    states = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.mimetype == "application/x-ndjson"
    assert [(each["state"], each["done_bytes"], each["seconds_left"]) for each in states] == [
        ("checking", 0, None),
        ("downloading", GIB, None),
        ("downloading", 2 * GIB, 6.0),
        ("complete", 8 * GIB, None),
    ]


def test_a_stream_may_be_of_events(tmp_path: Path):
    world = World(tmp_path, COMPLETE)
    answer = world.send("POST", "/models/pull", {"model": GEMMA, "stream": True}, Accept="text/event-stream")
    assert answer.mimetype == "text/event-stream"
    events = answer.text.split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["state"] == "complete"


def test_a_failed_download_says_why_in_its_last_line(tmp_path: Path):
    world = World(tmp_path, DownloadFailed("the disk has 1 GiB free, of 8 GiB"))
    last = json.loads(world.pull(stream=True).text.splitlines()[-1])
    assert (last["state"], last["code"], "1 GiB free" in last["problem"]) == ("failed", "download_failed", True)


@pytest.mark.parametrize("cause", ["client", "shutdown"])
def test_a_stream_ends_with_its_client_and_at_a_shutdown(tmp_path: Path, cause: str):
    world = World(tmp_path, DOWNLOADING)
    answer = world.pull(stream=True)
    lines = iter(answer.response)
    assert json.loads(next(lines))["state"] == "checking"
    if cause == "client":
        world.watched.is_disconnected = True
    else:
        world.services.store.pool = replace(world.services.store.pool, draining=True)
    rest = [json.loads(line)["state"] for line in lines]
    assert rest == []
    assert world.downloads.all[0].is_running, "it goes on"


def test_a_stream_gives_back_its_places(tmp_path: Path):
    world = World(tmp_path, *[COMPLETE] * (2 * PLACES + 1))
    for _ in range(2 * PLACES):
        answer = world.pull(stream=True)
        answer.get_data()
        answer.close()
    assert world.send("POST", "/api/pull", {"model": GEMMA}).status_code == 200


def test_ollamas_progress_has_a_bar(tmp_path: Path):
    script = DOWNLOADING, {"state": DownloadState.VERIFYING, "done_bytes": 8 * GIB}, COMPLETE
    answer = World(tmp_path, *script).send("POST", "/api/pull", {"model": f"hf.co/{GEMMA}"})
    manifest, bar, verifying, success = [json.loads(line) for line in answer.text.splitlines()]
    assert manifest == {"status": "pulling manifest"}
    assert bar["digest"].startswith(f"sha256:{bar['status'].removeprefix('pulling ')}")
    assert (bar["total"], bar["completed"]) == (8 * GIB, GIB)
    assert (verifying, success) == ({"status": "verifying sha256 digest"}, {"status": "success"})


def test_an_ollama_client_without_a_stream_gets_the_end(tmp_path: Path):
    world = World(tmp_path, DOWNLOADING, COMPLETE)
    answer = world.send("POST", "/api/pull", {"model": f"{GEMMA}:latest".replace(":Q8_0", ""), "stream": False})
    assert (answer.status_code, answer.json) == (200, {"status": "success"})
    assert world.downloads.started == ["ggml-org/gemma-3-270m-it-GGUF"]
    failed = World(tmp_path, ModelNotFound(GEMMA, "it has Q4_K_M"))
    answer = failed.send("POST", "/api/pull", {"model": GEMMA, "stream": False})
    assert (answer.status_code, "Q4_K_M" in answer.json["error"]) == (404, True)


def test_too_many_downloads_are_refused(tmp_path: Path):
    world = World(tmp_path)
    world.downloads.problem = Overloaded("4 models are being downloaded already")
    answer = world.pull()
    assert (code(answer), answer.headers["Retry-After"]) == ((503, "overloaded"), "1")


def test_pulls_count_as_requests_of_their_key(tmp_path: Path):
    world = World(tmp_path, policy=ON, keys=KEYS)
    assert world.pull(key="slow").status_code == 202
    assert code(world.pull(key="slow")) == (429, "rate_limited")
    assert world.send("POST", "/api/pull", {"model": GEMMA}, "slow").status_code == 429


def test_an_unload_cancels_a_download_and_unloads_nothing(tmp_path: Path):
    world = World(tmp_path)
    world.pull()
    assert world.send("POST", "/models/unload", {"model": GEMMA}).json == {"success": True}
    assert (world.downloads.canceled, world.services.pool.unloaded) == ([GEMMA], [])
    assert code(world.send("POST", "/models/unload", {"model": GEMMA})) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["ggml-org/gemma-3-270m-it-GGUF", f"hf.co/{GEMMA}", f"https://huggingface.co/{GEMMA}"])
def test_a_download_is_canceled_by_the_name_that_ordered_it(tmp_path: Path, name: str):
    """The status names it by its quantization. It was told that there is no such model, and to try that name."""
    world = World(tmp_path)
    for method, path in (("POST", "/models/unload"), ("DELETE", f"/models?model={name}"), ("DELETE", "/api/delete")):
        world.pull()
        assert world.send(method, path, {"model": name}).status_code == 200, path
    assert len(world.downloads.canceled) == 3


def test_a_download_is_canceled_by_the_entry_that_names_its_repository(tmp_path: Path):
    world = World(tmp_path)
    world.pull("mine")
    assert world.send("POST", "/models/unload", {"model": "mine"}).status_code == 200
    assert world.downloads.canceled == ["user/mine-GGUF:Q4_K_M"]


def test_a_key_cancels_no_download_that_it_does_not_see(tmp_path: Path):
    world = World(tmp_path, policy=ON, keys=KEYS)
    world.pull(key="admin")
    for method, path in (("POST", "/models/unload"), ("DELETE", f"/models/{GEMMA}"), ("DELETE", "/api/delete")):
        assert world.send(method, path, {"model": GEMMA}, "narrow-admin").status_code == 404, path
        assert world.send(method, path, {"model": GEMMA}, "user").status_code == 403, path
    assert world.downloads.canceled == []


def test_a_model_that_cannot_be_deleted_stays_loaded(tmp_path: Path):
    world = World(tmp_path)
    world.downloads.problem = NotSupported("it is in another folder")
    assert code(world.send("DELETE", "/models/demo")) == (501, "not_supported")
    assert world.services.pool.unloaded == []


def test_the_file_of_another_repository_is_not_deleted(tmp_path: Path):
    """The same file in two repositories is one model with two names."""
    world = World(tmp_path)
    for repo in ("u/Bar", "u/Foo"):
        downloaded(tmp_path / "hub", "F-Q4_0.gguf", "1", repo=repo)
    world.services.catalog = Catalog([], LaunchSettings(), hub_cache=tmp_path / "hub")
    answer = world.send("DELETE", "/models/u/Foo:Q4_0")
    assert code(answer) == (501, "not_supported") and "the same file as u/Bar:Q4_0" in answer.text
    assert world.downloads.removed == []
    assert world.send("DELETE", "/models/hf.co/u/bar").status_code == 200


def test_a_models_files_are_deleted_and_it_is_unloaded(tmp_path: Path):
    for method, path, body in (
        ("DELETE", "/models/demo", None),
        ("DELETE", "/models?model=demo", None),
        ("DELETE", "/api/delete", {"model": "demo"}),
    ):
        world = World(tmp_path)
        answer = world.send(method, path, body)
        assert answer.status_code == 200
        assert world.services.pool.unloaded == ["demo"]
        assert world.downloads.removed == [("demo", ["mine"])]
        if path == "/models/demo":
            assert answer.json == {"success": True, "freed_bytes": (tmp_path / "demo.gguf").stat().st_size}


def test_what_an_unfinished_download_left_is_deleted_by_its_name(tmp_path: Path):
    world = World(tmp_path)
    world.downloads.remains["unsloth/x-GGUF"] = 5
    assert world.send("DELETE", "/models/unsloth/x-GGUF:Q8_0").json == {"success": True, "freed_bytes": 5}
    assert code(world.send("DELETE", "/models/unsloth/x-GGUF:Q8_0")) == (404, "model_not_found")


def test_deleting_an_unknown_model_is_an_error(tmp_path: Path):
    assert code(World(tmp_path).send("DELETE", "/models/nope")) == (404, "model_not_found")
    assert code(World(tmp_path).send("DELETE", "/models")) == (400, "missing_model")


def test_the_status_has_the_downloads_the_newest_first(tmp_path: Path):
    world = World(tmp_path)
    world.pull()
    world.pull("unsloth/x-GGUF")
    status = world.status()
    assert [each["model"] for each in status["downloads"]] == ["unsloth/x-GGUF", GEMMA]
    assert status["may_pull"]


def test_a_status_follows_its_downloads_at_once(tmp_path: Path):
    world = World(tmp_path, DOWNLOADING)
    world.pull()
    assert world.status()["downloads"][0]["state"] == "checking"
    world.downloads.wait(download_orders.repository_name(GEMMA), 0.001)  # type: ignore[arg-type]
    assert world.status()["downloads"][0]["state"] == "downloading"


def test_a_key_sees_the_downloads_of_its_models_alone(tmp_path: Path):
    world = World(tmp_path, policy=OFF, keys=KEYS)
    a_gguf(tmp_path / "secret.gguf")
    world.services.catalog.reload()
    world.pull(key="admin")
    world.pull("unsloth/x-GGUF", key="admin")
    last = replace(world.downloads.all[-1], problem="would evict secret", state=DownloadState.FAILED)
    world.downloads.all = (*world.downloads.all[:-1], last)
    assert [(each["model"], each["problem"]) for each in world.status("narrow")["downloads"]] == [
        ("unsloth/x-GGUF", f"would evict {NOT_SHOWN}")
    ]
    assert len(world.status("user")["downloads"]) == 2
    may_pull = {key: world.status(key)["may_pull"] for key in ("admin", "user", "narrow")}
    assert may_pull == {"admin": True, "user": False, "narrow": False}


def test_a_key_may_pull_where_the_settings_allow_some_models(tmp_path: Path):
    world = World(tmp_path, policy=ALLOW, keys=KEYS)
    assert world.status("user")["may_pull"]
    empty = World(tmp_path, policy=DownloadPolicy(DownloadRule.ALLOW), keys=KEYS)
    assert not empty.status("user")["may_pull"]


def test_a_body_of_a_pull_is_checked(tmp_path: Path):
    world = World(tmp_path)
    for body in ({}, {"model": ""}, {"model": 1}, {"model": "x" * 600}, {"model": GEMMA, "stream": 1}, ["x"]):
        assert code(world.send("POST", "/models/pull", body)) == (400, "invalid_request"), body
    assert world.send("GET", "/models/pull").status_code == 405


def test_a_model_that_is_being_downloaded_is_listed_as_by_llama_cpps_router(tmp_path: Path):
    world = World(tmp_path, keys=KEYS)
    world.pull(key="admin")
    world.downloads.all = (replace(world.downloads.all[0], **DOWNLOADING),)
    listed = {each["id"]: each["status"] for each in world.send("GET", "/models", key="user").json["data"]}
    sizes = {"done": GIB, "total": 8 * GIB}
    assert listed[GEMMA] == {"value": "downloading", "progress": {GEMMA: sizes}}
    assert listed["demo"]["value"] == "unloaded"
    for key, path in (("user", "/v1/models"), ("narrow", "/models")):
        assert GEMMA not in [each["id"] for each in world.send("GET", path, key=key).json["data"]]
