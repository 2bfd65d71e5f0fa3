"""Reading ahead, with real files and what of them is in the page cache."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from app.use_cases.scheduling.read_ahead import FileAhead
from bench.cold_files import COLD, bring_to
from tests.helpers.service import wait_for
from workers.model_files.page_cache import cached_share
from workers.model_files.read_ahead import SLICE_BYTES, ReadAhead

MIB = 1024**2
SIZE = 96 * MIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return a_cold_file(tmp_path / "model.gguf")


def a_cold_file(path: Path) -> Path:
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    bring_to(path, COLD)
    return path


def share(path: Path) -> float:
    found = cached_share([str(path)])
    assert found is not None
    return found


def test_a_wanted_file_is_read_into_the_page_cache(file: Path):
    reader = ReadAhead(lambda: FileAhead(str(file), SIZE))
    reader.start()
    assert share(file) < 0.02, "nothing is read before something changes"
    reader.wake()
    wait_for(lambda: share(file) > 0.98, 60)


def test_no_more_is_read_than_was_permitted(file: Path):
    """However often the reader is woken: more often than the whole file has slices."""
    asked: list[None] = []

    def wanted() -> FileAhead:
        asked.append(None)
        return FileAhead(str(file), SIZE // 2)

    reader = ReadAhead(wanted)
    reader.start()

    def has_asked_often() -> bool:
        reader.wake()
        return len(asked) > 2 * SIZE // SLICE_BYTES

    wait_for(has_asked_often, 60)
    assert 0.5 <= share(file) < 0.7  # the kernel itself reads a little ahead


def test_the_reading_ends_as_soon_as_it_is_not_wanted(file: Path):
    """Each slice is decided for itself: here for two."""
    answers = [FileAhead(str(file), SIZE), FileAhead(str(file), SIZE), None]
    ended = threading.Event()

    def wanted() -> FileAhead | None:
        answer = answers.pop(0)
        if answer is None:
            ended.set()
        return answer

    reader = ReadAhead(wanted)
    reader.start()
    reader.wake()
    assert ended.wait(60)
    assert 2 * SLICE_BYTES / SIZE <= share(file) + 0.01 < 0.6


def test_all_parts_of_a_split_model_are_read(tmp_path: Path):
    parts = [a_cold_file(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2)]
    reader = ReadAhead(lambda: FileAhead(str(parts[0]), 2 * SIZE))
    reader.start()
    reader.wake()
    wait_for(lambda: min(map(share, parts)) > 0.98, 60)


def test_a_file_that_is_gone_is_given_up(tmp_path: Path, file: Path):
    wanted = [FileAhead(str(tmp_path / "gone.gguf"), SIZE)]
    reader = ReadAhead(lambda: wanted[0])
    reader.start()
    reader.wake()
    wanted[0] = FileAhead(str(file), SIZE)
    reader.wake()
    wait_for(lambda: share(file) > 0.98, 60)
