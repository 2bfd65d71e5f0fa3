"""What a scan learns from the beginning of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.builders import a_gguf
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import inspect_file


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("whole.gguf", "whole.gguf has no tensors"),
        ("big-00001-of-00002.gguf", ""),
        ("big-00002-of-00002.gguf", "big-00002-of-00002.gguf has no tensors"),
        ("one-00001-of-00001.gguf", "one-00001-of-00001.gguf has no tensors"),
    ],
)
def test_only_the_first_of_several_parts_may_lack_tensors(tmp_path: Path, name: str, problem: str):
    assert inspect_file(str(a_gguf(tmp_path / name, tensors=0)), FileSummaries(), name).problem == problem


def test_an_unchanged_file_is_not_read_again(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    stat = path.stat()
    first = FileSummaries()
    assert first.of(str(path), stat).problem == ""
    path.unlink()
    assert FileSummaries(first.summaries).of(str(path), stat).problem == ""
    assert FileSummaries().of(str(path), stat).problem == "cannot be read: No such file or directory"


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    os.utime(path, ns=(1, 1))
    first = FileSummaries()
    first.of(str(path), path.stat())
    path.write_bytes(b"x" * 128)
    os.utime(path, ns=(2, 2))
    assert FileSummaries(first.summaries).of(str(path), path.stat()).problem == "is not a GGUF file"


def test_a_failed_read_is_not_cached(tmp_path: Path):
    """chmod grants access without changing size or mtime."""
    path = a_gguf(tmp_path / "a.gguf")
    summaries = FileSummaries()
    assert summaries.of(str(tmp_path / "missing"), path.stat()).problem == "cannot be read: No such file or directory"
    assert summaries.summaries == {}
