"""What is in a folder, and what of it is served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.errors import ModelNotFound
from workers.catalog import Catalog


def names(*folders: Path) -> list[str]:
    return [model.name for model in Catalog(folders, LaunchSettings()).models()]


def test_each_file_is_a_model_of_its_name(tmp_path: Path):
    for name in ("b.gguf", "a b.gguf", "模型.GGUF", "-x.gguf", "<img onerror>.gguf", "notes.txt"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert names(tmp_path) == ["-x", "<img onerror>", "a b", "b", "模型"]


def test_what_is_no_model_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "nowhere")
    for name in (".hidden.gguf", ".gguf", "mmproj-x.gguf", "new\nline.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / os.fsdecode(b"bad\xff.gguf")).write_bytes(b"GGUF")
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    assert names(tmp_path) == ["good"]
    for told in ("folder.gguf", "pipe.gguf", "dangling.gguf", "new\\nline", "bad\\udcff"):
        assert told in caplog.text


def test_a_split_model_is_named_by_its_first_part(tmp_path: Path):
    for part in (1, 2, 3):
        (tmp_path / f"big-0000{part}-of-00003.gguf").write_bytes(b"GGUF")
    assert names(tmp_path) == ["big-00001-of-00003"]


def test_the_first_folder_wins_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.gguf").write_bytes(folder.encode())
    catalog = Catalog([tmp_path / "one", tmp_path / "two"], LaunchSettings())
    assert catalog.find("same").path == str(tmp_path / "one" / "same.gguf")
    assert "has the same name" in caplog.text


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert names(tmp_path / "nowhere") == []
    assert "nowhere cannot be read" in caplog.text


@pytest.mark.parametrize("name", ["../a", "a.gguf", "/etc/passwd", "A", "", "a\0"])
def test_a_name_is_a_key_and_nothing_else(tmp_path: Path, name: str):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound):
        Catalog([tmp_path], LaunchSettings()).find(name)
