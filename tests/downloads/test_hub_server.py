"""The Hugging Face-shaped server of the tests behaves towards huggingface_hub as the real one."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.helpers.hub_repository import Content
from tests.helpers.hub_server import HubServer

pytestmark = pytest.mark.integration
REPO = "org/model-GGUF"
FILE = "model-Q4_K_M.gguf"
WEIGHTS = bytes(range(256)) * 1024  # 256 KiB


@pytest.fixture(autouse=True)
def _model(hub: HubServer) -> None:
    hub.add(REPO, {FILE: WEIGHTS, "README.md": "# A model"})


def download(hub: HubServer, cache: Path, file: str = FILE, **options: object) -> Path:
    return Path(hf_hub_download(REPO, file, cache_dir=cache, endpoint=hub.endpoint, **options))  # type: ignore[call-overload]


def test_a_file_is_downloaded_from_the_storage_which_gets_no_token(hub: HubServer, tmp_path: Path) -> None:
    path = download(hub, tmp_path, token="secret")
    assert path.read_bytes() == WEIGHTS
    assert path.resolve().name == hashlib.sha256(WEIGHTS).hexdigest()
    assert hub.bytes_served(REPO, FILE) == len(WEIGHTS) == hub.furthest_byte(REPO)
    assert hub.tokens_sent_to_storage == []


def test_a_small_file_comes_from_the_hub_itself(hub: HubServer, tmp_path: Path) -> None:
    assert download(hub, tmp_path, "README.md").read_text() == "# A model"


def test_a_repository_is_described_with_sizes_and_checksums(hub: HubServer) -> None:
    info = HfApi(hub.endpoint, token=False).model_info(REPO, revision="main", files_metadata=True)
    assert info.sha == hub.repos[REPO].revision
    readme, model = sorted(info.siblings or (), key=lambda each: each.rfilename)
    assert (readme.size, readme.lfs) == (9, None)
    assert model.lfs is not None and model.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert model.size == len(WEIGHTS)


def test_the_tree_lists_subfolders(hub: HubServer) -> None:
    hub.add("org/parts", {"Q8_0/a.gguf": b"12", "b.gguf": b"1"})
    api = HfApi(hub.endpoint, token=False)
    assert [(each.path, each.size) for each in api.list_repo_tree("org/parts", recursive=True)] == [  # type: ignore[union-attr]
        ("Q8_0/a.gguf", 2),
        ("b.gguf", 1),
    ]


def test_unknown_repositories_and_revisions_are_refused_as_by_the_real_one(hub: HubServer) -> None:
    api = HfApi(hub.endpoint, token=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        api.model_info("org/other")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(hub.endpoint, token="any").model_info("org/other")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v2")


def test_a_gated_repository_is_listed_for_all_and_its_files_need_a_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {FILE: WEIGHTS}, gated=True, readers=frozenset({"member"}))
    assert HfApi(hub.endpoint, token=False).model_info(REPO).gated == "manual"
    for token in (False, "stranger"):
        with pytest.raises(GatedRepoError):
            download(hub, tmp_path, token=token)
    assert download(hub, tmp_path, token="member").read_bytes() == WEIGHTS


def test_a_cut_transfer_can_go_on_where_it_ended(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cut(FILE, at=1 << 17)
    assert download(hub, tmp_path).read_bytes() == WEIGHTS
    assert hub.bytes_served(REPO, FILE) == len(WEIGHTS)  # each byte once


def test_a_damaged_file_has_one_wrong_byte_at_its_end(hub: HubServer, tmp_path: Path) -> None:
    hub.damage(FILE)
    data = download(hub, tmp_path).read_bytes()
    assert (data[:-1], data[-1]) == (WEIGHTS[:-1], WEIGHTS[-1] ^ 1)
    assert download(hub, tmp_path / "again").read_bytes() == WEIGHTS


def test_a_status_can_be_answered_a_number_of_times(hub: HubServer) -> None:
    hub.fail(429, "/api/models", times=1, headers={"Retry-After": "7"})
    api = HfApi(hub.endpoint, token=False)
    with pytest.raises(HfHubHTTPError) as error:
        api.model_info(REPO)
    assert error.value.response.headers["Retry-After"] == "7"
    assert api.model_info(REPO).sha


def test_offline_means_refused_connections_until_it_comes_back(hub: HubServer) -> None:
    api, address = HfApi(hub.endpoint, token=False), hub.endpoint
    hub.go_offline()
    with pytest.raises(Exception, match="refused"):
        api.model_info(REPO)
    hub.come_back()
    assert hub.endpoint == address
    assert api.model_info(REPO).sha


def test_a_held_download_stops_in_the_middle_until_it_is_released(hub: HubServer, tmp_path: Path) -> None:
    hub.hold(FILE, after=1 << 16)
    thread = threading.Thread(target=download, args=(hub, tmp_path))
    thread.start()
    deadline = time.monotonic() + 20
    while hub.bytes_served(REPO, FILE) < 1 << 16:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert hub.bytes_served(REPO, FILE) == 1 << 16
    hub.release()
    thread.join(20)
    assert hub.bytes_served(REPO, FILE) == len(WEIGHTS)


def test_the_end_of_a_huge_file_costs_nothing(hub: HubServer) -> None:
    hub.add("org/huge", {"huge.gguf": Content(b"GGUF", 400 << 30)})
    info = HfApi(hub.endpoint, token=False).model_info("org/huge", files_metadata=True)
    assert info.siblings is not None and info.siblings[0].size == 400 << 30
