"""The check of a file's first bytes."""

from __future__ import annotations

import struct

import pytest

from workers.gguf.first_bytes import first_bytes_problem


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
        (b"version https://git-lfs.", 134, "is a Git LFS pointer, not the file itself: run git lfs pull"),
        (header(version=0), 1000, "is GGUF version 0; versions 2 and 3 are supported"),
        (header(version=1), 1000, "is GGUF version 1, which llama.cpp no longer supports: convert the model again"),
        (header(version=4), 1000, "is GGUF version 4; versions 2 and 3 are supported"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1), 1000, "is a big-endian GGUF file, which is not supported"),
        (header(tensors=0), 1000, "has no tensors"),
        (header(pairs=0), 1000, "has no metadata"),
        (
            header(tensors=290, pairs=29),
            24 + 290 * 24 + 29 * 14 - 1,
            "declares 290 tensors and 29 metadata keys, more than its 7389 bytes can hold: download it again",
        ),
    ],
)
def test_a_bad_header_is_explained(head: bytes, size_bytes: int, problem: str):
    assert first_bytes_problem(head, size_bytes) == problem


@pytest.mark.parametrize("field", ["tensors", "pairs"])
@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 2**60])
def test_an_absurd_count_is_rejected_despite_overflow(field: str, count: int):
    assert "can hold" in first_bytes_problem(header(**{field: count}), 2**50)
