"""The check of a file's first bytes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.helpers.builders import a_gguf
from workers.catalog.gguf_files import inspect_file
from workers.gguf.first_bytes import FirstBytesChecker, first_bytes_problem


def header(version: int = 3, tensors: int = 1, pairs: int = 1) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, pairs)


@pytest.mark.parametrize(
    ("head", "size_bytes", "problem"),
    [
        (header(), 1000, ""),
        (header(version=2), 1000, ""),
        (header(tensors=290, pairs=29), 24 + 290 * 24 + 29 * 14, ""),
        (b"", 0, "is empty"),
        (b"GGUF", 4, "is 4 bytes long, shorter than a GGUF header"),
        (b"PK\3\4" + bytes(20), 1000, "is not a GGUF file"),
        (b"GG", 2, "is not a GGUF file"),
        (b"version https://git-lfs.", 134, "is a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
        (header(version=0), 1000, "is GGUF version 0; versions 2 and 3 are supported"),
        (header(version=1), 1000, "is GGUF version 1, which llama.cpp no longer supports: convert the model again"),
        (header(version=4), 1000, "is GGUF version 4; versions 2 and 3 are supported"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1), 1000, "is a big-endian GGUF file, which is not supported"),
        (header(tensors=0), 1000, "has no tensors"),
        (header(pairs=0), 1000, "has no metadata"),
        (
            header(tensors=290, pairs=29),
            24 + 290 * 24 + 29 * 14 - 1,
            "declares 290 tensors and 29 metadata keys, more than its 7389 bytes can hold",
        ),
    ],
)
def test_a_bad_header_is_explained(head: bytes, size_bytes: int, problem: str):
    assert first_bytes_problem(head, size_bytes) == problem


@pytest.mark.parametrize("field", ["tensors", "pairs"])
@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 2**60])
def test_an_absurd_count_is_rejected_despite_overflow(field: str, count: int):
    assert "can hold" in first_bytes_problem(header(**{field: count}), 2**50)


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
    assert inspect_file(str(a_gguf(tmp_path / name, tensors=0)), FirstBytesChecker(), name).problem == problem


def test_an_unchanged_file_is_not_read_again(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    stat = path.stat()
    first = FirstBytesChecker()
    assert first.problem(str(path), stat) == ""
    path.unlink()
    assert FirstBytesChecker(first.verdicts).problem(str(path), stat) == ""
    assert FirstBytesChecker().problem(str(path), stat) == "cannot be read: No such file or directory"


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    os.utime(path, ns=(1, 1))
    first = FirstBytesChecker()
    first.problem(str(path), path.stat())
    path.write_bytes(b"x" * 128)
    os.utime(path, ns=(2, 2))
    assert FirstBytesChecker(first.verdicts).problem(str(path), path.stat()) == "is not a GGUF file"


def test_a_failed_read_is_not_cached(tmp_path: Path):
    """chmod grants access without changing size or mtime."""
    path = a_gguf(tmp_path / "a.gguf")
    checker = FirstBytesChecker()
    assert checker.problem(str(tmp_path / "missing"), path.stat()) == "cannot be read: No such file or directory"
    assert checker.verdicts == {}
