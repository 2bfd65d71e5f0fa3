"""What the fuzz tests share: entries of a corpus with a few changes, JSON values, and JSON text in odd spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CORPUS = Path(__file__).with_name("corpus")
EDGES = [
    b"",
    b"\0",
    b"\r\n",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"\\u0000",
    b"{",
    b"[",
    b"9" * 400,
    b"-1",
    b"1e999",
]


def corpus(name: str) -> list[bytes]:
    """The entries of a file of the corpus, one on each line, written with Python's escapes."""
    lines = (CORPUS / name).read_text().splitlines()
    return [line.encode().decode("unicode_escape").encode("latin-1") for line in lines if line]


def damaged(entries: list[bytes]) -> st.SearchStrategy[bytes]:
    """An entry, in which up to four times a slice is replaced, removed or doubled."""
    position = st.floats(0, 1, allow_nan=False)
    filling = st.sampled_from(EDGES) | st.binary(max_size=8) | st.none()
    changes = st.lists(st.tuples(position, st.integers(0, 12), filling), max_size=4)
    return st.builds(_apply, st.sampled_from(entries), changes)


def _apply(entry: bytes, changes: list[tuple[float, int, bytes | None]]) -> bytes:
    for position, length, filling in changes:
        start = int(position * len(entry))
        taken = entry[start : start + length]
        entry = entry[:start] + (2 * taken if filling is None else filling) + entry[start + length :]
    return entry


KEYS = ["type", "url", "content", "properties", "items", "pattern", "enum", "model", "é", ""]
LEAVES = [None, True, 0, -1.5, 10**30, "", "x", '"\\', "data:image/png;base64,AA==", "é😀", "\0"]


def json_values() -> st.SearchStrategy[Any]:
    """Small values that a body may have anywhere."""
    keys, leaves = st.sampled_from(KEYS), st.sampled_from(LEAVES)
    inner = leaves | st.lists(leaves, max_size=3) | st.dictionaries(keys, leaves, max_size=3)
    return inner | st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


ESCAPES = st.sampled_from([0, 0, 1, 2, 3, 7])


def spelled(value: Any, every: int) -> bytes:
    """The value as JSON, in which one of `every` letters of a string is written as an escape; 0: none."""
    text = json.dumps(value, ensure_ascii=False)
    if not every:
        return text.encode()
    pieces, is_inside, after_backslash = [], False, False
    for place, character in enumerate(text):
        may_escape = is_inside and not after_backslash and character.isalpha() and not place % every
        in_escape = "\\u" in text[max(0, place - 5) : place]  # of a control character
        pieces.append(f"\\u{ord(character):04x}" if may_escape and not in_escape else character)
        if character == '"' and not after_backslash:
            is_inside = not is_inside
        after_backslash = character == "\\" and not after_backslash
    return "".join(pieces).encode()
