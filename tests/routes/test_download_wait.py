"""A request for a model that is not here: it waits for the download, and goes on as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.entities.download import DownloadState
from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, ModelDoesNotFit, ModelNotFound
from app.routes import download_wait
from tests.helpers.builders import GIB, a_gguf, replace
from tests.routes.test_downloads import COMPLETE, DOWNLOADING, GEMMA, KEYS, OFF, ON, World, code

NAME = "user/repo"
PLACES = 4  # of those that wait for downloads, a quarter of all
HI = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECK_SECONDS", "COMMENT_SECONDS"):
        monkeypatch.setattr(download_wait, name, 0.001)
    monkeypatch.setattr(download_wait, "SILENT_SECONDS", 0.0)


class Waiting(World):
    """`arrives`, at the end of a script: the model's file is there, and the download is complete."""

    def __init__(self, folder: Path, *script: Any, **more: Any) -> None:
        super().__init__(folder, **{"policy": ON, **more})
        self.downloads.script = [self._arrives if step == "arrives" else step for step in script]
        self.folder = folder
        self.engine = self.services.pool

    def _arrives(self) -> dict[str, Any]:
        assert self.engine.acquired == [], "a request that waits for a download holds no slot"
        a_gguf(self.folder / f"{NAME}.gguf")
        self.services.catalog.reload()
        return COMPLETE

    def chat(self, name: str = NAME, key: str = "", path: str = "/v1/chat/completions", **fields: Any) -> Any:
        return self.send("POST", path, {"model": name, **HI, **fields}, key)

    def assert_nothing_is_held(self) -> None:
        for limit in ("admission", "download_waits"):
            assert getattr(self.services, limit)._running == 0, limit
        assert self.engine.held == 0


def test_a_request_waits_and_is_answered(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING, "arrives")
    answer = world.chat()
    assert (answer.status_code, answer.json) == (200, {"object": "chat.completion"})
    assert answer.headers["x-llama-smart-proxy-model"] == "repo"
    assert (world.downloads.started, world.engine.acquired) == ([NAME], ["repo"])
    world.assert_nothing_is_held()


def test_a_stream_begins_with_progress(tmp_path: Path):
    half = DOWNLOADING | {"done_bytes": 4 * GIB, "bytes_per_second": 0.1 * GIB}
    world = Waiting(tmp_path, DOWNLOADING, half, "arrives")
    events = world.chat(stream=True).text.split("\n\n")
    assert events[:2] == [
        ": downloading user/repo 12 % of 8.0 GiB",
        ": downloading user/repo 50 % of 8.0 GiB, 40 s left",
    ]
    assert events[-2:] == ["data: [DONE]", ""]
    assert world.engine.acquired == ["repo"]
    world.assert_nothing_is_held()


def test_progress_may_be_reasoning_or_nothing(tmp_path: Path):
    for setting, expected in (("reasoning_content", "downloading user/repo 12 %"), (False, "")):
        world = Waiting(tmp_path / str(setting), DOWNLOADING, "arrives")
        world.services.settings = replace(world.services.settings, loading_comments=setting)
        first = world.chat(stream=True).text.split("\n\n")[0]
        delta = json.loads(first.removeprefix("data: "))["choices"]
        assert (delta[0]["delta"]["reasoning_content"] if delta else "").startswith(expected)


def test_without_download_an_unknown_name_is_not_found_and_reaches_nobody(tmp_path: Path):
    world = Waiting(tmp_path, policy=OFF)
    answer = world.chat()
    assert code(answer) == (404, "model_not_found")
    message = answer.json["error"]["message"]
    assert f"`llama-smart-proxy pull {NAME}`" in message and "catalog.hugging_face.download" in message
    assert world.downloads.started == []
    world.assert_nothing_is_held()


def test_a_download_that_runs_is_waited_for_whatever_requests_may_download(tmp_path: Path):
    world = Waiting(tmp_path, "arrives", policy=OFF)
    world.pull(NAME)
    assert world.chat().status_code == 200
    assert world.downloads.started == [NAME], "it is not begun again"


def test_a_key_waits_for_no_model_that_it_may_not_use(tmp_path: Path):
    """It must not learn that the model is being downloaded either."""
    world = Waiting(tmp_path, keys=KEYS)
    world.pull(NAME, key="admin")
    hidden, unknown = world.chat(key="narrow"), world.chat("user/other", key="narrow")
    assert hidden.text.replace(NAME, "user/other") == unknown.text
    assert code(hidden) == (404, "model_not_found")
    assert world.downloads.started == [NAME]


def test_what_is_no_repository_is_not_downloaded(tmp_path: Path):
    world = Waiting(tmp_path)
    for name in ("nope", "../../etc/passwd", "user/repo:../../x", "-c/--flag"):
        assert code(world.chat(name)) == (404, "model_not_found"), name
    assert world.downloads.started == []


def test_requests_that_load_nothing_download_nothing(tmp_path: Path):
    world = Waiting(tmp_path)
    assert code(world.chat(path="/v1/chat/completions?autoload=false")) == (404, "model_not_found")
    assert world.chat(path="/other/path").status_code == 404
    assert world.send("GET", f"/props?model={NAME}").status_code == 404
    assert world.send("POST", "/api/generate", {"model": NAME, "keep_alive": 0}).status_code == 404
    assert world.downloads.started == []


def test_ollamas_clients_wait_in_silence(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING, "arrives")
    answer = world.send("POST", "/api/chat", {"model": f"{NAME}:latest", **HI})
    assert "downloading" not in answer.text
    assert world.engine.acquired == ["repo"]


def test_the_model_of_an_entry_is_downloaded_from_its_repository(tmp_path: Path):
    world = Waiting(tmp_path, DownloadFailed("no network"))
    assert code(world.chat("mine")) == (502, "download_failed")
    assert world.downloads.started == ["user/mine-GGUF:Q4_K_M"]


def test_a_broken_file_is_not_downloaded_again(tmp_path: Path):
    world = Waiting(tmp_path)
    a_gguf(tmp_path / f"{NAME}.gguf").write_bytes(b"GGUF")
    world.services.catalog.reload()
    assert code(world.chat()) == (422, "invalid_model_file")
    assert world.downloads.started == []


ERRORS = [
    (ModelNotFound(NAME, "there is no such repository"), 404, "model_not_found"),
    (ModelDoesNotFit("needs 391 GiB, the cards have 47 GiB"), 422, "model_does_not_fit"),
    (DownloadFailed("the disk is full"), 502, "download_failed"),
]


@pytest.mark.parametrize(("error", "status", "expected"), ERRORS)
def test_a_download_that_fails_at_once_is_an_answer_with_its_status(tmp_path: Path, error, status, expected):
    for streams in (False, True):
        world = Waiting(tmp_path, error)
        assert code(world.chat(stream=streams)) == (status, expected)
        world.assert_nothing_is_held()


def test_a_download_that_fails_later_ends_a_stream_with_an_event(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING, DownloadFailed("the disk is full"))
    answer = world.chat(stream=True)
    last = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))
    assert (answer.status_code, last["error"]["code"]) == (200, "download_failed")
    world.assert_nothing_is_held()


def test_a_canceled_download_ends_the_wait(tmp_path: Path):
    world = Waiting(tmp_path, {"state": DownloadState.CANCELED})
    answer = world.chat()
    assert (code(answer), "canceled" in answer.text) == ((502, "download_failed"), True)


def test_the_wait_is_limited(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING | {"bytes_per_second": 0.2 * GIB})
    world.services.settings = replace(world.services.settings, max_wait_seconds=0.05)
    answer = world.chat()
    assert code(answer) == (503, "model_downloading")
    assert answer.headers["Retry-After"] == "35"  # 7 GiB are left
    assert "downloading user/repo 12 % of 8.0 GiB, 35 s left" in answer.json["error"]["message"]
    assert world.downloads.all[0].is_running, "it goes on"
    world.assert_nothing_is_held()


def test_a_client_that_disconnects_is_noticed(tmp_path: Path):
    for streams in (False, True):
        world = Waiting(tmp_path, DOWNLOADING, lambda world=None: DOWNLOADING)
        world.watched.is_disconnected = True
        assert world.chat(stream=streams).status_code == 499
        assert world.engine.acquired == []
        world.assert_nothing_is_held()


def test_a_shutdown_ends_the_wait(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING)
    world.services.store.pool = replace(world.services.store.pool, draining=True)
    assert code(world.chat()) == (503, "draining")


def test_waits_leave_loaded_models_their_places(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING)
    for _ in range(PLACES):
        world.services.download_waits.acquire()
    answer = world.chat()
    assert (code(answer), answer.headers["Retry-After"]) == ((503, "model_downloading"), "30")
    assert world.downloads.started == [NAME]


def test_an_order_to_load_waits_too(tmp_path: Path):
    world = Waiting(tmp_path, DOWNLOADING, "arrives")
    assert world.send("POST", "/models/load", {"model": NAME}).json == {"success": True}
    assert world.engine.loaded == ["repo"]
    assert world.downloads.wait(RepositoryName(NAME), 0.0).state is DownloadState.COMPLETE  # type: ignore[union-attr]


def test_the_request_is_logged_under_no_name_of_the_clients(tmp_path: Path):
    world = Waiting(tmp_path, policy=OFF)
    seen: list[Any] = []
    world.services.gauges.answered = lambda *about: seen.append(about)
    world.chat(GEMMA)
    assert seen[0][1] == "_unknown"
