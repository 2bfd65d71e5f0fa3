"""The catalogue: which files in the folders are served, and under which names."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.errors import ModelNotFound
from tests.helpers.builders import GGUF_BYTES, a_gguf, a_launch
from tests.helpers.service import wait_for
from workers.catalog import discovery, scans
from workers.catalog.catalog import Catalog

DEADLINE_SECONDS = 10.0


def a_catalog(*folders: Path) -> Catalog:
    return Catalog(folders, LaunchSettings())


def names(*folders: Path) -> list[str]:
    return [model.name for model in a_catalog(*folders).models()]


def problems(*folders: Path) -> dict[str, str]:
    return {model.name: model.problem for model in a_catalog(*folders).models()}


# --- names ---------------------------------------------------------------------------------------------


def test_each_file_is_a_model_with_its_name(tmp_path: Path):
    for name in ("b.gguf", "a b.gguf", "模型.GGUF", "-x.gguf", "<img onerror>.gguf", "sub/deep/c.gguf"):
        a_gguf(tmp_path / name)
    (tmp_path / "notes.txt").write_bytes(b"GGUF")
    assert names(tmp_path) == ["-x", "<img onerror>", "a b", "b", "c", "模型"]


def test_the_tag_of_ollamas_clients_is_no_part_of_a_name(tmp_path: Path):
    for name in ("a.gguf", "b.gguf", "b:latest.gguf"):
        a_gguf(tmp_path / name)
    catalog = a_catalog(tmp_path)
    assert [catalog.find(name).name for name in ("a:latest", "b", "b:latest")] == ["a", "b", "b:latest"]
    for name in ("c:latest", "a:8b", ":latest"):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


def test_a_model_has_its_files_path_size_and_time(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf", size_bytes=1000)
    os.utime(path, (1_700_000_000.9, 1_700_000_000.9))
    settings = a_launch(ctx_size=99)
    assert Catalog([tmp_path], settings).models() == [Model("a", str(path), 1000, 1_700_000_000, settings)]


def test_hidden_files_projectors_and_unprintable_names_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in (".hidden.gguf", ".gguf", ".hidden/a.gguf", "mmproj-x.gguf", "x.MMPROJ.gguf", "new\nline.gguf"):
        a_gguf(tmp_path / name)
    a_gguf(tmp_path / os.fsdecode(b"bad\xff.gguf"))
    a_gguf(tmp_path / "good.gguf")
    assert names(tmp_path) == ["good"]
    for name in ("new\\nline", "bad\\udcff"):
        assert name in caplog.text


def test_a_split_model_is_named_by_the_common_part_of_its_files_names(tmp_path: Path):
    for part in (1, 2, 3):
        a_gguf(tmp_path / "sub" / f"big-0000{part}-of-00003.gguf")
    catalog = a_catalog(tmp_path)
    assert [(model.name, model.size_bytes) for model in catalog.models()] == [("big", 3 * GGUF_BYTES)]
    for key in ("big-00001-of-00003", "big-00001-of-00003.gguf", "sub/big-00001-of-00003", "sub/big"):
        assert catalog.find(key).name == "big"
    with pytest.raises(ModelNotFound):
        catalog.find("big-00002-of-00003")


def test_files_with_the_same_name_are_distinguished_by_their_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    one, two = tmp_path / "one", tmp_path / "two"
    for file in ("same.gguf", "b/same.gguf", "a/same.gguf"):
        a_gguf(one / file)
    for file in ("same.gguf", "a/same.gguf", "c/same.gguf"):
        a_gguf(two / file)
    catalog = a_catalog(one, two)
    assert {model.name: model.path for model in catalog.models()} == {
        "same": str(one / "same.gguf"),
        "a/same": str(one / "a" / "same.gguf"),
        "b/same": str(one / "b" / "same.gguf"),
        "c/same": str(two / "c" / "same.gguf"),
    }
    for file in ("same.gguf", "a/same.gguf"):
        assert f"{two / file} is not served: {one / 'same.gguf'} has the same name" in caplog.text
    assert caplog.text.count("is not served") == 2


@pytest.mark.parametrize(
    ("key", "found"), [("a.gguf", "a"), ("sub/b", "b"), ("sub/b.gguf", "b"), ("b.gguf", "b"), ("c.gguf", "c.gguf")]
)
def test_a_model_is_found_by_its_file_name_and_path(tmp_path: Path, key: str, found: str):
    for file in ("a.gguf", "sub/b.gguf", "c.gguf", "z/c.gguf.gguf"):
        a_gguf(tmp_path / file)
    assert a_catalog(tmp_path).find(key).name == found  # c.gguf is a name, and a name is never shadowed


def test_a_name_that_is_too_long_is_not_served(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    deep = Path(*["d" * 200] * 3)
    a_gguf(tmp_path / "a.gguf")
    a_gguf(tmp_path / deep / "a.gguf")
    assert names(tmp_path) == ["a"]
    assert f"{tmp_path / deep / 'a.gguf'} is not served" in caplog.text


def test_an_unreadable_folder_is_logged_once_and_the_others_are_scanned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    for file in ("a/a.gguf", "b/b.gguf"):
        a_gguf(tmp_path / file)
    scandir = os.scandir
    locked = str(tmp_path / "a")

    def scandir_without_permission(path):  # permissions do not apply to root, who may run this test
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_without_permission)
    catalog = a_catalog(tmp_path / "nowhere", tmp_path)
    catalog.reload()
    assert [model.name for model in catalog.models()] == ["b"]
    assert caplog.text.count(f"{locked} cannot be read: Permission denied") == 1
    assert caplog.text.count("nowhere cannot be read: No such file or directory") == 1


# --- broken files ------------------------------------------------------------------------------------------


def test_a_broken_file_is_listed_with_its_problem(tmp_path: Path):
    (tmp_path / "text.gguf").write_text("not a model at all, whatever it says")
    (tmp_path / "empty.gguf").touch()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "nowhere")
    a_gguf(tmp_path / "old.gguf", version=1)
    a_gguf(tmp_path / "big-00002-of-00002.gguf")
    a_gguf(tmp_path / "folder.gguf" / "good.gguf")
    assert problems(tmp_path) == {
        "big": "part 1 of 2 is missing: big-00001-of-00002.gguf",
        "dangling": "dangling.gguf cannot be read: No such file or directory",
        "empty": "empty.gguf is empty",
        "good": "",
        "old": "old.gguf is GGUF version 1, which llama.cpp no longer supports: convert the model again",
        "pipe": "pipe.gguf is not a regular file",
        "text": "text.gguf is not a GGUF file",
    }


def test_a_file_without_read_permission_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_gguf(tmp_path / "a.gguf")

    def refuse(path: str, _: bool) -> None:  # permissions do not apply to root, who may run this test
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("workers.catalog.file_summaries._read_summary", refuse)
    assert problems(tmp_path) == {"a": "a.gguf cannot be read: Permission denied"}


def test_the_note_about_a_lost_name_names_the_model_that_has_it(tmp_path: Path):
    """The note once said that the name was too long."""
    for folder in ("a", "b"):
        a_gguf(tmp_path / folder / "same.gguf")
    assert a_catalog(tmp_path).warnings == (
        f"{tmp_path}/b/same.gguf is listed as b/same: {tmp_path}/a/same.gguf has the same name",
    )


def test_a_broken_model_is_found_by_all_its_names(tmp_path: Path):
    (tmp_path / "text.gguf").write_text("not a model at all, whatever it says")
    catalog = a_catalog(tmp_path)
    assert catalog.find("text.gguf") == catalog.find("text")
    assert catalog.find("text").problem == "text.gguf is not a GGUF file"


# --- look-ups ------------------------------------------------------------------------------------------


@pytest.fixture
def opened():
    """The files this thread opens and the folders it lists from now on: (event, path)."""
    seen: list[tuple[str, object]] = []
    thread = threading.get_ident()
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("open", "os.scandir", "os.listdir") and threading.get_ident() == thread:
            seen.append((event, arguments[0]))

    sys.addaudithook(hook)  # cannot be removed
    yield seen
    watching = False


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../a",
            "a/../a",
            "./a",
            "/a",
            "//a",
            "a/",
            "sub/../a",
            "/etc/passwd",
            "file:///etc/passwd",
            "~/a",
            "$HOME/a",
        ),
        *(
            "",
            " a",
            "a ",
            "a\0",
            "a\n",
            "a.gguf\0",
            "-x",
            "--model",
            "*",
            "a*",
            "\udcff",
            "a" * 1_000_000,
        ),
        *("sub\\b", "u/r:../a", "u/r:/etc/passwd", "../..:a", "ａ", "FILE"),  # noqa: RUF001
    ],
)
def test_a_name_is_never_used_as_a_path_or_pattern(tmp_path: Path, opened: list, name: str):
    path = a_gguf(tmp_path / "a.gguf")
    a_gguf(tmp_path / "sub" / "b.gguf")
    catalog = Catalog([tmp_path], LaunchSettings(), hub_cache=tmp_path)
    opened.clear()
    with pytest.raises(ModelNotFound):
        catalog.find(str(path) if name == "FILE" else name)
    assert opened == []


def test_a_lookup_opens_no_file(tmp_path: Path, opened: list):
    a_gguf(tmp_path / "a.gguf")
    catalog = a_catalog(tmp_path)
    assert ("open", str(tmp_path / "a.gguf")) in opened  # the hook works
    opened.clear()
    assert catalog.find("a").name == catalog.models()[0].name == "a"
    assert opened == []


# --- reload ---------------------------------------------------------------------------------------------


def test_reload_finds_added_removed_and_changed_files(tmp_path: Path):
    for name in ("stays", "goes", "changes"):
        a_gguf(tmp_path / f"{name}.gguf")
    catalog = a_catalog(tmp_path)
    (tmp_path / "goes.gguf").unlink()
    a_gguf(tmp_path / "comes.gguf")
    (tmp_path / "changes.gguf").write_bytes(b"")
    catalog.reload()
    assert {model.name: bool(model.problem) for model in catalog.models()} == {
        "changes": True,
        "comes": False,
        "stays": False,
    }


def test_each_scan_logs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    a_gguf(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").touch()
    a_catalog(tmp_path).reload()
    line = "catalogue models=2 broken=1 seconds"
    lines = [record.getMessage().rpartition("=")[0] or record.getMessage() for record in caplog.records]
    assert lines == ["model b cannot be served: b.gguf is empty", line, line]  # the reason once, not after every scan


def test_a_failed_scan_does_not_change_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    a_gguf(tmp_path / "a.gguf")
    catalog = a_catalog(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(discovery, "walk", lambda *_: 1 // 0)
        catalog.reload()
    assert catalog.find("a").name == "a"
    assert "ZeroDivisionError" in caplog.text
    a_gguf(tmp_path / "b.gguf")
    catalog.reload()
    assert catalog.find("b").name == "b"


class HeldScans:
    """Scans that block after reading the folder until `go_on` is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.count = 0
        self._walk = discovery.walk
        monkeypatch.setattr(discovery, "walk", self._hold)

    def _hold(self, *arguments):
        files = list(self._walk(*arguments))
        self.count += 1
        self.began.release()
        assert self.go_on.acquire(timeout=DEADLINE_SECONDS)
        return files


def test_all_reloads_during_a_scan_share_the_next_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    catalog = a_catalog(tmp_path)
    held = HeldScans(monkeypatch)
    seen: list[list[str]] = []

    def reload() -> None:
        catalog.reload()
        seen.append([model.name for model in catalog.models()])

    callers = [threading.Thread(target=reload) for _ in range(4)]
    callers[0].start()
    assert held.began.acquire(timeout=DEADLINE_SECONDS)
    a_gguf(tmp_path / "late.gguf")  # not seen by the running scan, which has already read the folder
    for caller in callers[1:]:
        caller.start()
    wait_for(lambda: len(catalog._scans._state._waiters) == 3, DEADLINE_SECONDS)
    assert catalog.models() == []  # lookups are not blocked
    held.go_on.release(2)
    for caller in callers:
        caller.join(DEADLINE_SECONDS)
    assert seen.count(["late"]) >= 3 and held.count == 2


def test_a_hanging_disk_blocks_one_caller_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scans, "SCAN_WAIT_SECONDS", 0.05)
    catalog = a_catalog(tmp_path)
    held = HeldScans(monkeypatch)
    stuck = threading.Thread(target=catalog.reload)
    stuck.start()
    assert held.began.acquire(timeout=DEADLINE_SECONDS)
    catalog.reload()
    assert held.count == 1
    held.go_on.release()
    stuck.join(DEADLINE_SECONDS)
    assert not stuck.is_alive()


def test_an_aborted_scan_does_not_block_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    catalog = a_catalog(tmp_path)
    with monkeypatch.context() as dying:
        dying.setattr(discovery, "walk", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            catalog.reload()
    a_gguf(tmp_path / "a.gguf")
    catalog.reload()
    assert catalog.find("a").name == "a"


def test_a_scan_of_a_thousand_files_is_fast(tmp_path: Path):
    """Expected: 0.2 s of CPU time, which other tests beside it do not lengthen; bench/catalog.py has the figures."""
    for number in range(1000):
        a_gguf(tmp_path / str(number % 10) / f"m{number}-Q4_K_M.gguf")
    began = time.process_time()
    assert len(names(tmp_path)) == 1000
    assert time.process_time() - began < 20 * 0.2
