"""What a repository has, and how the hub's refusals and faults are told."""

from __future__ import annotations

import json
import time

import pytest

from app.entities.repository import Repository, RepositoryFile
from app.errors import DownloadFailed, ModelNotFound, ProxyError
from tests.helpers.hub_answers import MOST_ENDLESS_BYTES
from tests.helpers.hub_repository import Content
from tests.helpers.hub_server import HubServer
from workers.downloads import hub as hub_access
from workers.downloads.hub import Hub

pytestmark = pytest.mark.integration
REPO = "org/model-GGUF"


def failure(hub: HubServer, repo: str = REPO) -> ProxyError:
    with pytest.raises(ProxyError) as error:
        Hub(hub.endpoint).repository(repo)
    assert "\n" not in str(error.value)
    return error.value


def described(hub: HubServer, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """The hub describes its repository differently."""
    plain = {"id": REPO, "sha": "a" * 40, "siblings": [{"rfilename": "a.gguf", "size": 1}]}
    monkeypatch.setattr("tests.helpers.hub_answers.info", lambda *_: plain | changes)
    hub.add(REPO, {})


def test_a_repository_has_files_with_sizes_and_checksums_at_one_revision(hub: HubServer):
    published = hub.add(REPO, {"Q8_0/a.gguf": b"abc", "README.md": "# A"})
    assert Hub(hub.endpoint).repository(REPO) == Repository(
        REPO,
        published.revision,
        (RepositoryFile("Q8_0/a.gguf", 3, Content(b"abc", 3).sha256), RepositoryFile("README.md", 3)),
    )


def test_a_repository_that_does_not_exist_or_is_private_is_not_found(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    hub.add("org/private", {}, private=True, readers=frozenset({"member"}))
    for repo in ("org/other", "org/private"):
        error = failure(hub, repo)
        assert isinstance(error, ModelNotFound)
        assert "check the name, or set HF_TOKEN" in str(error)
    monkeypatch.setenv("HF_TOKEN", "stranger")
    error = failure(hub, "org/private")
    assert isinstance(error, ModelNotFound)
    assert "or set HF_TOKEN" not in str(error) and "that the token that is set" in str(error)
    monkeypatch.setenv("HF_TOKEN", "member")
    assert Hub(hub.endpoint).repository("org/private").files == ()


def test_a_rate_limit_is_waited_for_and_then_told_with_its_time(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    hub.add(REPO, {"a.gguf": b"abc"})
    hub.fail(429, "/api/models", times=1, headers={"Retry-After": "1"})
    began = time.monotonic()
    assert Hub(hub.endpoint).repository(REPO).files
    assert time.monotonic() - began >= 1
    monkeypatch.setattr(hub_access, "MAX_PAUSE_SECONDS", 0.01)
    hub.fail(429, "/api/models", headers={"Retry-After": "240"})
    assert "the server limits the requests of this address; try again in 240 s, or set HF_TOKEN" in str(failure(hub))


def test_a_server_error_is_tried_again_and_then_told(hub: HubServer):
    hub.add(REPO, {"a.gguf": b"abc"})
    hub.fail(503, "/api/models", times=2)
    assert Hub(hub.endpoint).repository(REPO).files
    hub.fail(500, "/api/models")
    assert "the server answered 500; try again later" in str(failure(hub))


@pytest.mark.parametrize(("status", "told"), [(400, "answered 400"), (503, "answered 503"), (302, "redirects")])
def test_the_body_of_a_refusal_or_redirect_is_not_read(hub: HubServer, status: int, told: str):
    """huggingface_hub reads it whole, and decompressed: one without an end took all memory of the service."""
    hub.add(REPO, {"a.gguf": b"abc"})
    hub.fail(status, "/api/models", headers={"Location": f"/api/models/{REPO}"}, is_endless=True)
    assert told in str(failure(hub))
    assert hub.endless_bytes < MOST_ENDLESS_BYTES


def test_a_redirect_to_nowhere_is_no_answer(hub: HubServer):
    hub.add(REPO, {"a.gguf": b"abc"})
    hub.fail(302, "/api/models")
    assert "the server answered 302" in str(failure(hub))


def test_a_hub_that_cannot_be_reached_says_what_to_check(hub: HubServer):
    hub.go_offline()
    error = failure(hub)
    assert isinstance(error, DownloadFailed)
    assert "127.0.0.1 cannot be reached" in str(error) and "HF_ENDPOINT" in str(error)


def test_an_endpoint_that_is_no_address_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch):
    for endpoint, shown in (("nonsense", "'nonsense' cannot be reached"), ("me:secret@nonsense", "'nonsense' cannot")):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        with pytest.raises(DownloadFailed) as error:
            Hub().repository(REPO)
        assert shown in str(error.value) and "secret" not in str(error.value)


def test_no_error_has_the_password_of_the_endpoint(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    described(hub, monkeypatch, sha=None)
    with pytest.raises(DownloadFailed, match="does not describe it") as error:
        Hub(hub.endpoint.replace("://", "://me:secret@")).repository(REPO)
    assert "secret" not in str(error.value) and hub.endpoint in str(error.value)


def test_a_forbidden_repository_is_told_for_the_token_that_is_set_or_not(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
):
    hub.add(REPO, {"a.gguf": b"abc"})
    hub.fail(403, "/api/models", times=2)
    assert "without a token: set HF_TOKEN" in str(failure(hub))
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert "with the token that is set" in str(failure(hub))
    monkeypatch.setattr(hub_access, "MAX_PAUSE_SECONDS", 0.01)
    hub.fail(429, "/api/models")
    assert "HF_TOKEN" not in str(failure(hub))


def test_offline_mode_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in str(failure(hub))
    assert hub.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"sha": "../../x"},
        {"sha": None},
        {"siblings": None},
        {"siblings": [1]},
        {"siblings": [{}]},
        {"siblings": [{"rfilename": "a"}] * (hub_access.MAX_FILES + 1)},
        {"padding": " " * hub_access.MAX_ANSWER_BYTES},
    ],
)
def test_a_description_unlike_hugging_faces_is_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
):
    described(hub, monkeypatch, **changes)
    assert "does not describe it as Hugging Face does" in str(failure(hub))


@pytest.mark.parametrize(
    "path", ["../a.gguf", "/etc/passwd", "a/../../b.gguf", "a\\b.gguf", "a\nb.gguf", "", 7, "a" * 2000]
)
def test_a_path_that_could_lead_out_of_a_folder_is_left_out(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, path: object
):
    described(hub, monkeypatch, siblings=[{"rfilename": path, "size": 1}, {"rfilename": "ok.gguf", "size": -1}])
    assert Hub(hub.endpoint).repository(REPO).files == (RepositoryFile("ok.gguf", 0),)


@pytest.mark.parametrize("size", [10**400, 1 << 60, True, 1.5, "1"])
def test_a_size_that_no_file_has_is_unknown(hub: HubServer, monkeypatch: pytest.MonkeyPatch, size: object):
    """Reports calculate with it."""
    described(hub, monkeypatch, siblings=[{"rfilename": "a.gguf", "size": size}])
    assert Hub(hub.endpoint).repository(REPO).files == (RepositoryFile("a.gguf", 0),)


def test_an_answer_that_is_no_json_is_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    described(hub, monkeypatch)
    for text in (json.dumps([]), "<html>", "[" * 100_000):
        monkeypatch.setattr("tests.helpers.hub_answers.json.dumps", lambda _, text=text: text)
        assert "does not describe it" in str(failure(hub))


def test_the_spelling_of_a_name_is_the_repositorys(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    described(hub, monkeypatch, id="Org/Model-GGUF")
    assert Hub(hub.endpoint).repository(REPO).repo == "Org/Model-GGUF"
    described(hub, monkeypatch, id="evil/other")
    assert Hub(hub.endpoint).repository(REPO).repo == REPO


def test_a_letter_that_is_another_in_lower_case_is_none_of_a_name(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    """The sign for kelvin is k in lower case: no folder of the cache has that name, and a plan was a 500."""
    described(hub, monkeypatch, id="org/\u212ardel")
    hub.add("org/krdel", {})
    assert Hub(hub.endpoint).repository("org/krdel").repo == "org/krdel"
