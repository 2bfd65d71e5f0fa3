"""Source packages are fetched from an index: continued, checked, and refused in one line."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.engine_builds.source_download import fetch_source
from workers.engine_builds.stopping import CannotContinue

pytestmark = pytest.mark.integration

NAME = "xllamacpp-2026.8.11200.tar.gz"
CONTENT = bytes(range(256)) * 4096


@dataclass
class Index:
    """A package index on loopback, as pip reads it. Its answers may be changed at any time."""

    url: str = ""
    is_json: bool = True
    sha256: str = hashlib.sha256(CONTENT).hexdigest()
    content: bytes = CONTENT
    cut_at: int | None = None  # the connection ends after these bytes
    knows_ranges: bool = True
    status: int = 200
    ranges: list[str] = field(default_factory=list)  # of the requests for the archive

    def page(self) -> tuple[str, bytes]:
        if self.is_json:
            file = {"filename": NAME, "url": f"../../{NAME}", "hashes": {"sha256": self.sha256}}
            return "application/vnd.pypi.simple.v1+json", json.dumps({"files": [file]}).encode()
        return "text/html", f'<html><a href="../../{NAME}#sha256={self.sha256}">{NAME}</a>'.encode()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The one that pip is configured for."""
    index = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if index.status != 200:
                self.send_error(index.status)
            elif self.path.endswith(NAME):
                self._archive()
            else:
                kind, page = index.page()
                self._answer(200, page, kind)

        def _archive(self) -> None:
            asked = self.headers.get("Range", "")
            index.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if index.knows_ranges else 0
            if start >= len(index.content):
                self.send_error(416)
            else:
                self._answer(206 if start else 200, index.content[start:], "application/gzip", index.cut_at)

        def _answer(self, status: int, body: bytes, kind: str, cut_at: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut_at])

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        index.url = f"http://ann:secret@127.0.0.1:{server.server_port}/simple"
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield index
        server.shutdown()


@pytest.mark.parametrize("is_json", [True, False])
def test_a_package_is_fetched_once_from_the_index_that_pip_is_configured_for(tmp_path: Path, index: Index, is_json):
    index.is_json = is_json
    reported: list[tuple[int, int]] = []
    archive = fetch_source("11200", tmp_path, lambda done, total: reported.append((done, total)))
    assert (archive.name, archive.read_bytes()) == (NAME, CONTENT)
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert fetch_source("11200", tmp_path) == archive
    assert len(index.ranges) == 1


def test_a_download_that_broke_off_is_one_line_and_goes_on_where_it_ended(tmp_path: Path, index: Index):
    index.cut_at = 300_000
    with pytest.raises(CannotContinue, match=r"^the download of \S+ broke off .*goes on where it ended$"):
        fetch_source("11200", tmp_path)
    kept = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < kept <= 300_000
    index.cut_at = None
    assert fetch_source("11200", tmp_path).read_bytes() == CONTENT
    assert index.ranges == ["", f"bytes={kept}-"]


def test_a_server_without_ranges_sends_all_of_it_anew(tmp_path: Path, index: Index):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    index.knows_ranges = False
    assert fetch_source("11200", tmp_path).read_bytes() == CONTENT


def test_a_complete_part_is_checked_not_fetched(tmp_path: Path, index: Index):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch_source("11200", tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_one_line_and_nothing_of_it_remains(tmp_path: Path, index: Index):
    index.content = CONTENT[::-1]
    with pytest.raises(CannotContinue, match=r"^the download of \S+ is damaged .*run the same command again$"):
        fetch_source("11200", tmp_path)
    assert list(tmp_path.iterdir()) == []
    index.content = CONTENT
    assert fetch_source("11200", tmp_path).read_bytes() == CONTENT


def test_an_archive_that_was_damaged_on_the_disk_is_fetched_anew(tmp_path: Path, index: Index):
    (tmp_path / NAME).write_bytes(b"damaged")
    assert fetch_source("11200", tmp_path).read_bytes() == CONTENT


def test_an_index_that_does_not_answer_is_one_line_with_the_way_out_and_without_its_password(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
):
    index.status = 503
    with pytest.raises(CannotContinue, match=r"pip's index: HTTP 503. Next: .*--sdist FILE$") as failed:
        fetch_source("11200", tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "http://ann:secret@127.0.0.1:9/simple")
    with pytest.raises(CannotContinue, match=r"pip's index: it cannot be reached") as refused:
        fetch_source("11200", tmp_path)
    assert "secret" not in f"{failed.value}{refused.value}"
