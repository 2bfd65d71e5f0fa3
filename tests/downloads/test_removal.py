"""Deleting models from the Hugging Face cache, laid out as huggingface_hub lays it out."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import closing
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, NotSupported
from tests.downloads.pulls import FILE, MIB, NAME, REPO, downloader, partial
from tests.helpers.builders import GGUF_BYTES, a_gguf
from tests.helpers.hub_server import HubServer
from tests.helpers.ollama_models import LIBRARY, a_manifest, gguf_bytes
from workers.catalog.catalog import Catalog
from workers.catalog.other_programs import ProgramFolder
from workers.downloads.found_model import FoundModel
from workers.downloads.removal import delete_from_cache, delete_partial_files

DATA = b"never fetched"
OLD, NEW = "a" * 40, "b" * 40


def downloaded(cache: Path, path: str, etag: str, revision: str = NEW, repo: str = "u/Foo") -> Path:
    """A file as a download leaves it; files with one ETag are one blob."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / (etag * 64)
    if not blob.exists():
        a_gguf(folder / "blobs" / os.path.basename(path)).replace(blob)
    link = folder / "snapshots" / revision / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    return blob


def remove(cache: Path, name: str) -> int:
    catalog = Catalog([], LaunchSettings(), hub_cache=cache)
    model = catalog.find(name)
    return delete_from_cache(cache, model, [each for each in catalog.models() if each.name != model.name])


def names(cache: Path) -> list[str]:
    return [model.name for model in Catalog([], LaunchSettings(), hub_cache=cache).models()]


def test_a_model_is_deleted_and_its_neighbour_stays(tmp_path: Path):
    blob = downloaded(tmp_path, "F-Q4_0.gguf", "1")
    downloaded(tmp_path, "F-Q8_0.gguf", "2")
    assert remove(tmp_path, "u/Foo:Q4_0") == GGUF_BYTES
    assert not blob.exists() and names(tmp_path) == ["u/Foo:Q8_0"]


def test_a_projector_that_another_model_uses_stays(tmp_path: Path):
    projector = downloaded(tmp_path, "mmproj-F16.gguf", "3")
    downloaded(tmp_path, "F-Q4_0.gguf", "1")
    downloaded(tmp_path, "F-Q8_0.gguf", "2")
    assert remove(tmp_path, "u/Foo:Q4_0") == GGUF_BYTES and projector.exists()
    assert remove(tmp_path, "u/Foo:Q8_0") == 2 * GGUF_BYTES and not projector.exists()


def test_a_file_to_which_a_link_leads_out_of_the_cache_stays(tmp_path: Path):
    cache, precious = tmp_path / "cache", a_gguf(tmp_path / "precious.gguf")
    blob = downloaded(cache, "F-Q4_0.gguf", "1")
    link = blob.parents[1] / "snapshots" / NEW / "F-Q8_0.gguf"
    link.symlink_to(precious)
    assert remove(cache, "u/Foo:Q8_0") == 0
    assert names(cache) == ["u/Foo:Q4_0"]
    blob.unlink()
    blob.symlink_to(precious)
    remove(cache, "u/Foo:Q4_0")
    assert (names(cache), precious.exists()) == ([], True)


@pytest.mark.parametrize("repo", ["a/b/c", "ü/x", "a/..b"])
def test_a_folder_that_no_download_made_is_not_deleted(tmp_path: Path, repo: str):
    blob = downloaded(tmp_path, "F-Q4_0.gguf", "1", repo=repo)
    with pytest.raises(NotSupported, match="delete its files yourself"):
        remove(tmp_path, f"{repo}:Q4_0")
    assert blob.exists()


def test_with_its_last_model_a_repository_leaves_nothing(tmp_path: Path):
    downloaded(tmp_path, "F-Q4_0-00001-of-00002.gguf", "1")
    downloaded(tmp_path, "F-Q4_0-00002-of-00002.gguf", "2")
    assert remove(tmp_path, "u/Foo:Q4_0") == 2 * GGUF_BYTES
    assert not list(tmp_path.iterdir())


def test_a_file_goes_from_all_revisions(tmp_path: Path):
    downloaded(tmp_path, "F-Q4_0.gguf", "1", revision=OLD)
    downloaded(tmp_path, "F-Q4_0.gguf", "1", revision=NEW)
    assert remove(tmp_path, "u/Foo:Q4_0") == GGUF_BYTES and not names(tmp_path)


def test_a_blob_that_repositories_share_goes_with_its_last_one(tmp_path: Path):
    """huggingface_hub 2.4 shares blobs of equal content, cache/blobs/AB/HASH, as links in the repositories."""
    shared = a_gguf(tmp_path / "blobs" / "ab" / ("ab" * 32))
    shared.with_name(f"{shared.name}.refs").write_text("")
    for repo in ("u/Foo", "u/Bar"):
        blob = downloaded(tmp_path, "F-Q4_0.gguf", "1", repo=repo)
        blob.unlink()
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert names(tmp_path) == ["u/Bar:Q4_0"], "one file, one model"
    model = Catalog([], LaunchSettings(), hub_cache=tmp_path).find("u/Bar:Q4_0")
    assert delete_from_cache(tmp_path, model, []) == 0 and shared.exists()
    model = Catalog([], LaunchSettings(), hub_cache=tmp_path).find("u/Foo:Q4_0")
    assert delete_from_cache(tmp_path, model, []) == GGUF_BYTES
    assert not list((tmp_path / "blobs" / "ab").iterdir())


def test_a_file_system_without_links_has_the_files_themselves(tmp_path: Path):
    blob = downloaded(tmp_path, "F-Q4_0.gguf", "1")
    link = tmp_path / "models--u--Foo" / "snapshots" / NEW / "F-Q4_0.gguf"
    blob.replace(link)
    assert remove(tmp_path, "u/Foo:Q4_0") == GGUF_BYTES and not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [".", "snapshots", "blobs"])
def test_a_folder_that_is_a_link_out_of_the_cache_is_not_followed(tmp_path: Path, folder: str):
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    blob = downloaded(cache, "F-Q4_0.gguf", "1")
    (blob.parent / f"{'2' * 64}.incomplete").write_bytes(b"12345")
    blob.replace(blob.parents[1] / "snapshots" / NEW / "F-Q4_0.gguf")  # no link, which would break
    inside = Path(os.path.normpath(blob.parents[1] / folder))
    inside.rename(elsewhere)
    inside.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(NotSupported, match="leads out of the Hugging Face cache"):
        delete_partial_files(cache, "u/Foo")
    if folder == "snapshots":
        with pytest.raises(NotSupported, match="leads out of"):
            remove(cache, "u/Foo:Q4_0")
    assert sorted(elsewhere.rglob("*")) == before


def test_a_file_of_another_folder_is_never_deleted(tmp_path: Path):
    file = a_gguf(tmp_path / "models" / "mine.gguf")
    model = Catalog([tmp_path / "models"], LaunchSettings()).find("mine")
    with pytest.raises(NotSupported, match="not in the Hugging Face cache"):
        delete_from_cache(tmp_path / "cache", model, [])
    assert file.exists()


def test_files_of_other_programs_are_theirs_to_delete(tmp_path: Path):
    """A blob of Ollama may be one of several models: "delete its files yourself" would have broken them."""
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/x/1b", model=gguf_bytes())
    studio = a_gguf(tmp_path / "lms" / "u" / "Foo" / "Foo-Q4_0.gguf").parent
    folders = {
        each: [ProgramFolder(str(tmp_path / name))] for each, name in (("ollama", "ollama"), ("lm_studio", "lms"))
    }
    catalog = Catalog([], LaunchSettings(), **folders)
    before = sorted(tmp_path.rglob("*"))
    for name, advice in (("x:1b", "`ollama rm` deletes it"), ("u/Foo:Q4_0", f"delete it there ({studio})")):
        with pytest.raises(NotSupported, match=re.escape(f"folder, which is never changed: {advice}")):
            delete_from_cache(tmp_path / "cache", catalog.find(name), [])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_an_unfinished_download_left_is_deleted_but_not_what_comes_now(tmp_path: Path):
    downloaded(tmp_path, "F-Q4_0.gguf", "1")
    blobs = tmp_path / "models--u--Foo" / "blobs"
    for name in ("2" * 64, "3" * 64, f"{'4' * 64}.abcdef12"):
        (blobs / f"{name}.incomplete").write_bytes(b"12345")
    lock = tmp_path / ".locks" / "models--u--Foo" / f"{'3' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert delete_partial_files(tmp_path, "u/Foo") == 10
    assert sorted(each.name for each in blobs.iterdir()) == ["1" * 64, f"{'3' * 64}.incomplete"]
    assert delete_partial_files(tmp_path, "u/Nothing") == 0


@pytest.mark.integration
def test_only_the_unfinished_files_of_the_named_model_are_deleted(hub: HubServer, cache: Path) -> None:
    """A key for one quant deleted what had come of all others of the repository."""
    first, other = os.urandom(MIB), os.urandom(MIB)
    hub.add(REPO, {FILE: first, "model-Q8_0.gguf": other})
    for data in (first, other):
        partial(cache, data).parent.mkdir(parents=True, exist_ok=True)
        partial(cache, data).write_bytes(data[:1000])
    with closing(downloader(hub, cache)) as found:
        assert found.discard(RepositoryName(REPO, "q8_0")) == 1000
        assert (partial(cache, first).exists(), partial(cache, other).exists()) == (True, False)
        assert found.discard(RepositoryName(REPO)) == 1000


@pytest.mark.integration
def test_without_the_hub_the_unfinished_files_of_one_model_are_not_guessed(hub: HubServer, cache: Path) -> None:
    def find(name: RepositoryName) -> FoundModel:
        raise DownloadFailed("the hub is away")

    with closing(downloader(hub, cache, find=find)) as found:
        assert found.discard(NAME) == 0, "the hub is not asked where nothing is"
        partial(cache, DATA).parent.mkdir(parents=True)
        partial(cache, DATA).write_bytes(b"12345")
        with pytest.raises(NotSupported, match=r"the hub is away\. Deleting org/model-GGUF deletes all"):
            found.discard(NAME)
        assert found.discard(RepositoryName(REPO)) == 5
