"""A catalogue that a reload replaces, while requests and scans go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import Replicas
from tests.helpers.builders import a_gguf
from tests.helpers.service import wait_for
from workers.catalog import discovery as module
from workers.catalog import scans
from workers.catalog.catalog import Catalog
from workers.catalog.configured_models import ConfiguredModel

DEFAULTS = LaunchSettings()


def names(catalog: Catalog) -> list[str]:
    return [model.name for model in catalog.models()]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("old", "new"):
        a_gguf(tmp_path / name / f"{name}.gguf")
    return tmp_path / "old", tmp_path / "new"


def test_it_is_what_the_other_is_and_scans_where_the_other_does(folders: tuple[Path, Path]):
    old, new = folders
    catalog = Catalog([old], DEFAULTS)
    entry = ConfiguredModel("several", DEFAULTS, path=new / "new.gguf", replicas=Replicas(1, 2))
    catalog.replace_by(Catalog([new], DEFAULTS, entries=[entry], earlier=catalog))
    assert names(catalog) == ["several"]
    assert catalog.knows_replicas
    a_gguf(new / "later.gguf")
    catalog.reload()
    assert names(catalog) == ["later", "several"]


def test_a_request_has_the_very_definition_that_is_in_force_until_a_scan_or_a_reload_makes_another(
    folders: tuple[Path, Path],
):
    """The scheduler compares them at every request: identity is all it needs as long as nothing has changed."""
    old, new = folders
    entry = ConfiguredModel("entry", DEFAULTS, path=old / "old.gguf", aliases=("alias",))
    catalog = Catalog([old, new], DEFAULTS, entries=[entry])
    for name in ("alias", "new"):
        unread = catalog.find(name)
        assert unread is catalog.definition(unread.name)
        model = catalog.servable(unread)  # reads its header, and then has its facts
        assert catalog.servable(model) is model is catalog.find(name) is catalog.definition(model.name)
    assert catalog.definition("alias") is None
    before = catalog.find("new")
    (new / "new.gguf").unlink()
    catalog.reload()
    assert catalog.definition(before.name) is None
    assert catalog.definition("entry") == catalog.find("alias")


def test_what_earlier_scans_found_is_neither_read_nor_logged_once_more(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    old, _ = folders
    (old / "broken.gguf").write_bytes(b"not a model")
    catalog = Catalog([old], DEFAULTS)
    assert "broken" in caplog.text
    caplog.clear()
    monkeypatch.setattr("workers.catalog.file_summaries._read_summary", lambda path, _: pytest.fail(f"{path} was read"))
    other = Catalog([old], DEFAULTS, earlier=catalog)
    assert (names(other), other.warnings) == (names(catalog), catalog.warnings)
    assert "broken" not in [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_the_result_of_a_scan_that_hangs_is_dropped(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    old, new = folders
    catalog, is_free = Catalog([old], DEFAULTS), threading.Event()
    other = Catalog([new], DEFAULTS, earlier=catalog)
    read, entered = catalog._read, threading.Event()

    def slow(sources: Any) -> Any:
        entered.set()
        is_free.wait(20)
        return read(sources)

    monkeypatch.setattr(scans, "SCAN_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(catalog, "_read", slow)
    scan = threading.Thread(target=catalog.reload)
    scan.start()
    wait_for(entered.is_set, 20)
    catalog.replace_by(other)
    is_free.set()
    scan.join(20)
    assert names(catalog) == ["new"]


def test_a_scan_that_fails_is_not_taken_for_an_empty_catalogue(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    def broken(*arguments: Any) -> Any:
        raise OSError("the disk is gone")

    assert Catalog([folders[0]], DEFAULTS).is_scanned
    monkeypatch.setattr(module, "walk", broken)
    assert not Catalog([folders[0]], DEFAULTS).is_scanned
