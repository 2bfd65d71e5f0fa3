"""Headers are read once, by one thread, and again after the file has changed."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.entities.gguf import GgufHeader
from app.errors import InvalidModelFile
from tests.helpers.builders import a_gguf
from tests.helpers.gguf_bytes import a_file
from tests.helpers.service import wait_for
from workers.catalog import model_headers
from workers.catalog.model_headers import ModelHeaders, stamp_of

DEADLINE_SECONDS = 10.0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose headers were read, by file name."""
    seen: list[str] = []
    read_header = model_headers.read_header

    def record(path: str) -> GgufHeader:
        seen.append(os.path.basename(path))
        return read_header(path)

    monkeypatch.setattr(model_headers, "read_header", record)
    return seen


def some_headers(capacity: int = 300) -> ModelHeaders[str]:
    return ModelHeaders(lambda header: f"{header.architecture}/{len(header.tensors)}", capacity)


def test_a_header_is_read_once(tmp_path: Path, reads: list[str]):
    path, headers = str(a_gguf(tmp_path / "a.gguf")), some_headers()
    for _ in range(3):
        assert (headers.get(path), headers.problem(path)) == ("llama/1", "")
    assert reads == ["a.gguf"]


def test_a_change_of_any_part_is_read(tmp_path: Path, reads: list[str]):
    first, second = (a_gguf(tmp_path / f"big-0000{part}-of-00002.gguf") for part in (1, 2))
    headers = some_headers()
    assert headers.get(str(first)) == "llama/2"
    os.utime(second, ns=(1, 1))
    assert headers.get(str(first)) == "llama/2"
    os.truncate(second, 300)
    assert headers.get(str(first)) == "llama/2"
    os.truncate(second, 100)
    with pytest.raises(InvalidModelFile, match="big-00002-of-00002"):
        headers.get(str(first))
    assert len(reads) == 4


def test_a_problem_is_cached_until_the_file_changes(tmp_path: Path, reads: list[str]):
    path, headers = tmp_path / "a.gguf", some_headers()
    path.write_bytes(a_file({"general.architecture": "clip"}))
    for _ in range(2):
        assert headers.problem(str(path)).startswith("a.gguf is a multimodal projector")
        with pytest.raises(InvalidModelFile):
            headers.get(str(path))
    assert reads == ["a.gguf"]
    a_gguf(path)
    assert (headers.last_problem(str(path))[:16], headers.problem(str(path))) == ("a.gguf is a mult", "")
    assert headers.last_problem(str(path)) == ""


def test_a_read_error_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """chmod grants access without changing size and mtime."""
    path, headers = str(a_gguf(tmp_path / "a.gguf")), some_headers()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as locked:
        locked.setattr(os, "open", refuse)
        assert headers.problem(path) == headers.last_problem(path) == "a.gguf cannot be read: Permission denied"
    assert not headers.is_known(path, stamp_of(path) or ())
    assert headers.get(path) == "llama/1"


def test_a_file_that_changes_during_the_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, headers = a_gguf(tmp_path / "a.gguf"), some_headers()
    read_header = model_headers.read_header

    def read_and_change(path: str) -> GgufHeader:
        header = read_header(path)
        os.utime(path, ns=(1, 1))
        return header

    with monkeypatch.context() as writing:
        writing.setattr(model_headers, "read_header", read_and_change)
        headers.problem(str(path))
    assert not headers.is_known(str(path), stamp_of(str(path)) or ())
    path.write_bytes(a_file({"general.type": "adapter"}).ljust(path.stat().st_size, b"\0"))
    os.utime(path, ns=(1, 1))
    assert headers.problem(str(path)) == "a.gguf is an adapter, not a model"


def test_the_most_recently_used_headers_and_all_problems_are_kept(tmp_path: Path, reads: list[str]):
    a, b, c = (str(a_gguf(tmp_path / f"{name}.gguf")) for name in "abc")
    headers = some_headers(capacity=2)
    for path in (a, b, a, c):
        headers.get(path)
    headers.get(a)
    assert reads == ["a.gguf", "b.gguf", "c.gguf"]
    assert headers.problem(b) == ""
    assert reads == ["a.gguf", "b.gguf", "c.gguf"], "known to be good without another read"
    assert headers.get(b) == "llama/1"
    assert reads == ["a.gguf", "b.gguf", "c.gguf", "b.gguf"]


def test_problems_of_removed_and_changed_files_are_dropped(tmp_path: Path):
    paths = {name: str(a_gguf(tmp_path / f"{name}.gguf")) for name in ("stays", "changes", "goes")}
    headers = some_headers()
    for path in paths.values():
        os.truncate(path, 20)
        assert headers.problem(path)
    stamp = stamp_of(paths["stays"])
    assert stamp is not None
    headers.keep({paths["stays"]: stamp, paths["changes"]: ((20, 1),)})
    assert [name for name, path in paths.items() if headers.last_problem(path)] == ["stays"]


def test_one_thread_reads_and_the_others_wait_for_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, other = str(a_gguf(tmp_path / "a.gguf")), str(a_gguf(tmp_path / "b.gguf"))
    headers, read_header = some_headers(), model_headers.read_header
    began, go_on, reads = threading.Event(), threading.Event(), []

    def blocking_read(requested: str) -> GgufHeader:
        reads.append(requested)
        if requested == path:
            began.set()
            assert go_on.wait(DEADLINE_SECONDS)
        return read_header(requested)

    monkeypatch.setattr(model_headers, "read_header", blocking_read)
    with ThreadPoolExecutor(5) as pool:
        results = [pool.submit(headers.get, path) for _ in range(5)]
        assert began.wait(DEADLINE_SECONDS)
        assert headers.get(other) == "llama/1", "another model does not wait"
        wait_for(lambda: len(headers._changed._waiters) == 4, DEADLINE_SECONDS)
        go_on.set()
        assert [result.result(DEADLINE_SECONDS) for result in results] == ["llama/1"] * 5
    assert reads == [path, other]


def test_an_exception_in_one_reader_does_not_block_the_next(tmp_path: Path):
    path = str(a_gguf(tmp_path / "a.gguf"))
    answers = iter([lambda: 1 // 0, lambda: "good"])
    headers: ModelHeaders[object] = ModelHeaders(lambda header: next(answers)())
    with pytest.raises(ZeroDivisionError):
        headers.get(path)
    assert headers.get(path) == "good"


def test_the_derivation_may_reject_a_header(tmp_path: Path):
    def refuse(header: GgufHeader) -> None:
        raise InvalidModelFile("", "has no heads")

    path, headers = str(a_gguf(tmp_path / "a.gguf")), ModelHeaders(refuse)
    assert headers.problem(path) == headers.last_problem(path) == "has no heads"
