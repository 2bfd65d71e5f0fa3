"""Files of engines' lines: their names, modes, rotation and age, and what a broken disk costs."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

import pytest

from workers.logs import files as files_module
from workers.logs.files import FILE_BYTES, FILES, LogFiles, file_name

DAY = 86400


def test_a_models_file_is_only_ours_to_read(tmp_path: Path):
    folder = tmp_path / "state" / "logs"
    LogFiles(folder, True).append("demo", "one\n")
    LogFiles(folder, True).append("demo", "two\n")
    assert (folder / "demo.log").read_text() == "one\ntwo\n"
    assert (folder.stat().st_mode & 0o777, (folder / "demo.log").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("name", ["user/repo:Q4_K_M", "../../etc/passwd", "..", ".hidden", "a\0b", "é" * 300, "-x", ""])
def test_any_model_name_is_a_file_in_the_folder(tmp_path: Path, name: str):
    LogFiles(tmp_path / "logs", True).append(name, "line\n")
    assert [file.name for file in (tmp_path / "logs").iterdir()] == [file_name(name)]
    assert re.fullmatch(r"[\w-]+\.log", file_name(name), re.ASCII)
    assert file_name(name) != file_name(name + "x")


def test_a_model_has_20_mib_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert FILES * FILE_BYTES == 20 * 1024**2
    monkeypatch.setattr(files_module, "FILE_BYTES", 100)
    files = LogFiles(tmp_path, True)
    for number in range(50):
        files.append("a", f"{number:02}".ljust(49) + "\n")
    names = [f"a.log{suffix}" for suffix in ("", ".1", ".2", ".3", ".4", ".5", ".6", ".7")]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert "".join((tmp_path / name).read_text() for name in reversed(names)).split() == [
        f"{number:02}" for number in range(50 - 16, 50)
    ]


def test_a_day_begins_a_file_and_a_week_ends_it(tmp_path: Path):
    files = LogFiles(tmp_path, True)
    files.append("a", "yesterday\n")
    os.utime(tmp_path / "a.log", (time.time() - DAY,) * 2)
    files.append("a", "today\n")
    assert ((tmp_path / "a.log.1").read_text(), (tmp_path / "a.log").read_text()) == ("yesterday\n", "today\n")
    (tmp_path / "notes.txt").write_text("somebody else's")
    for file in tmp_path.iterdir():
        os.utime(file, (time.time() - 7.1 * DAY,) * 2)
    LogFiles(tmp_path, True).remove_old()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_disk_that_takes_nothing_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    files = LogFiles(tmp_path / "file" / "logs", True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            files.append("a", "line\n")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_no_link_is_followed(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").symlink_to(tmp_path / "target")
    LogFiles(tmp_path / "logs", True).append("a", "line\n")
    assert not (tmp_path / "target").exists()


def test_files_can_be_turned_off(tmp_path: Path):
    LogFiles(tmp_path / "logs", False).append("a", "line\n")
    assert list(tmp_path.iterdir()) == []
