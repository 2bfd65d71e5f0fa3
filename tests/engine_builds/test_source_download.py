"""The source package, from an index on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.use_cases.engines import source_packages
from app.use_cases.engines.source_packages import PINNED_FILENAME, PINNED_VERSION
from tests.engine_builds.index_server import CONTENT, NAME, VERSION, IndexServer
from workers.engine_builds import package_index
from workers.engine_builds.package_index import index_access, offered_packages
from workers.engine_builds.source_download import download_source, sha256_of
from workers.engine_builds.stopping import CannotContinue

pytestmark = pytest.mark.integration


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    """The only index that pip is configured for; pip itself is not started."""
    with IndexServer() as server:
        monkeypatch.setattr(package_index, "_pip_settings", lambda: {"index-url": server.url})
        yield server


@pytest.mark.parametrize("is_html", [False, True])
def test_an_index_is_read_in_both_forms(index: IndexServer, is_html: bool):
    index.is_html = is_html
    (package,) = offered_packages(index_access())
    assert (package.filename, package.version, package.sha256) == (NAME, VERSION, index.sha256)
    assert package.url == index.url.replace("simple", f"files/{NAME}")
    assert package.size_bytes == (0 if is_html else len(CONTENT))


def test_a_module_called_pip_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`python -m pip` looks there first: whoever wrote the folder would run code as who installs an engine in it."""
    (tmp_path / "pip.py").write_text("open('pip-was-run', 'w')")
    monkeypatch.chdir(tmp_path)
    index_access()
    assert not (tmp_path / "pip-was-run").exists()


@pytest.mark.parametrize("is_html", [False, True])
def test_a_package_is_fetched_once_with_its_progress(index: IndexServer, tmp_path: Path, is_html: bool):
    index.is_html = is_html
    shown: list[tuple[int, int]] = []
    archive = download_source("11900", tmp_path, lambda done, total: shown.append((done, total)))
    assert (archive, archive.read_bytes()) == (tmp_path / NAME, CONTENT)
    assert shown[-1] == (len(CONTENT), len(CONTENT)) and shown == sorted(shown)
    assert download_source("11900", tmp_path) == archive
    assert index.ranges == [None]


def test_a_cut_download_is_continued(index: IndexServer, tmp_path: Path):
    index.cut_at = 1 << 18
    with pytest.raises(CannotContinue, match=r"broke off .*run the same command again, which resumes it"):
        download_source(VERSION, tmp_path)
    index.cut_at = None
    assert download_source(VERSION, tmp_path).read_bytes() == CONTENT
    assert index.ranges == [None, "bytes=262144-"]


def test_of_a_server_that_knows_no_ranges_all_is_fetched_again(index: IndexServer, tmp_path: Path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:5000])
    index.heeds_ranges = False
    assert download_source(VERSION, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_its_file_deleted(index: IndexServer, tmp_path: Path):
    index.sha256 = "0" * 64
    with pytest.raises(CannotContinue, match=r"damaged .*deleted: run the same command again"):
        download_source(VERSION, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_the_index_lacks_is_one_line_with_the_nearest(index: IndexServer, tmp_path: Path):
    with pytest.raises(CannotContinue, match=rf"^the index has no .* 9; the nearest are {VERSION}$"):
        download_source("9", tmp_path)


@pytest.mark.parametrize(("status", "why"), [(404, "HTTP 404"), (503, "HTTP 503")])
def test_an_index_that_answers_with_an_error_is_one_line(index: IndexServer, tmp_path: Path, status: int, why: str):
    index.status = status
    with pytest.raises(CannotContinue, match=rf"^no source package .*: {why}\. Next: try again, .*--sdist FILE$"):
        download_source(VERSION, tmp_path)


def test_offline_is_one_line_that_names_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = "http://user:secret@127.0.0.1:1/simple"
    monkeypatch.setattr(package_index, "_pip_settings", lambda: {"index-url": url})
    with pytest.raises(CannotContinue, match=r"^[^\n]*it cannot be reached\. Next: [^\n]*--sdist FILE$") as raised:
        download_source(VERSION, tmp_path)
    assert "secret" not in str(raised.value)


def test_the_pinned_package_that_is_there_needs_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package_index, "_pip_settings", lambda: {"index-url": "http://127.0.0.1:1"})
    archive = tmp_path / PINNED_FILENAME
    archive.write_bytes(CONTENT)
    monkeypatch.setattr(source_packages, "PINNED_SHA256", sha256_of(archive))
    assert download_source(PINNED_VERSION, tmp_path) == archive
    archive.write_bytes(CONTENT[:9])
    with pytest.raises(CannotContinue, match="cannot be reached"):
        download_source(PINNED_VERSION, tmp_path)
