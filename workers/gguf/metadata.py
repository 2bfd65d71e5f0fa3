"""The metadata of a GGUF file: its keys and values, as far as they are worth keeping.

Long values and those of the tokenizer are skipped, only their lengths are kept. Their total size is bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from app.entities.gguf import Value
from workers.gguf.constants import DEFAULT_ALIGNMENT, Keys, ValueType
from workers.gguf.file_window import LENGTH, FileWindow, Unreadable

MOST_KEPT_BYTES = 1 << 21  # of keys and values, about what they take in memory; models have 50,000
MOST_VALUES = 4096  # of an array that is kept
LONGEST_TEXT = 1 << 16  # that is kept; chat templates are shorter
MOST_STRINGS = 10_000_000  # in the arrays of one file; Gemma 3 has 780,000
LONGEST = 1 << 30  # text or array: llama.cpp's own bound (b11434, ggml/src/gguf.cpp)
VALUE_BYTES, TEXT_BYTES, KEY_BYTES = 40, 60, 200  # what one takes in memory, without its text

NUMBER = struct.Struct("<I")
ARRAY_HEAD = struct.Struct("<IQ")  # type, length
LETTERS: dict[int, str] = {  # of the `struct` module
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of one file."""

    values: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)  # of all arrays

    @property
    def alignment(self) -> int:
        """What the data of every tensor begins at a multiple of. Raises Unreadable."""
        alignment = self.values.get(Keys.General.ALIGNMENT, DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment.bit_count() != 1:
            raise Unreadable(f"is damaged: its alignment is {alignment!r}, and not a power of two")
        return alignment


def read_metadata(window: FileWindow, pairs: int) -> Metadata:
    """The next `pairs` of key and value. Raises Unreadable."""
    reader = _Reader(window)
    for _ in range(pairs):
        reader.read_pair()
    return reader.metadata


class _Reader:
    def __init__(self, window: FileWindow) -> None:
        self.metadata = Metadata()
        self._window = window
        self._keys: set[str] = set()
        self._bytes_left = MOST_KEPT_BYTES
        self._strings_left = MOST_STRINGS

    def read_pair(self) -> None:
        key = self._key()
        (kind,) = self._window.unpack(NUMBER)
        if key == Keys.General.ALIGNMENT and kind != ValueType.UINT32:
            raise Unreadable(f"is damaged: its alignment is of type {kind}")
        value = self._array(key) if kind == ValueType.ARRAY else self._scalar(key, kind)
        if value is not None:
            self.metadata.values[key] = value

    def _key(self) -> str:
        (length,) = self._window.unpack(LENGTH)
        if not length:
            raise Unreadable("is damaged: it has a metadata key without a name")
        if not self._can_keep(length + KEY_BYTES):
            raise Unreadable("is damaged: its metadata keys alone are longer than any model's metadata")
        key = _decoded(self._window.take(length))
        if not key.isprintable() or " " in key:  # llama.cpp writes it into its log as it is
            raise Unreadable(f"is damaged: {quoted(key)} is no name for metadata")
        if key in self._keys:
            raise Unreadable(f"is damaged: it has the metadata key {quoted(key)} twice")
        self._keys.add(key)
        return key

    def _scalar(self, key: str, kind: int) -> Value | None:
        if kind == ValueType.STRING:
            return self._text(key)
        (value,) = self._window.unpack(struct.Struct("<" + _letter(key, kind)))
        return value  # type: ignore[no-any-return]

    def _text(self, key: str) -> str | None:
        (length,) = self._window.unpack(LENGTH)
        if length > LONGEST:
            raise Unreadable(f"is damaged: the metadata key {quoted(key)} has a text of {length} bytes")
        if length > LONGEST_TEXT or not self._can_keep(length + TEXT_BYTES):
            self._window.skip(length)
            return None
        return _decoded(self._window.take(length))

    def _array(self, key: str) -> Value | None:
        kind, length = self._window.unpack(ARRAY_HEAD)
        if length > LONGEST:
            raise Unreadable(f"is damaged: the metadata key {quoted(key)} has {length} values")
        self.metadata.lengths[key] = length
        is_kept = length <= MOST_VALUES and not key.startswith("tokenizer.") and self._can_keep(length * VALUE_BYTES)
        if kind == ValueType.STRING:
            return self._texts(key, length, is_kept)
        form = struct.Struct(f"<{length}{_letter(key, kind)}") if is_kept else struct.Struct("<" + _letter(key, kind))
        if is_kept:
            return self._window.unpack(form)
        self._window.skip(length * form.size)
        return None

    def _texts(self, key: str, length: int, is_kept: bool) -> Value | None:
        self._strings_left -= length
        if self._strings_left < 0:
            raise Unreadable(f"is damaged: with {quoted(key)} it has more than {MOST_STRINGS} strings of metadata")
        if not is_kept:
            self._window.skip_strings(length)
            return None
        texts = [self._text(key) for _ in range(length)]
        kept = tuple(text for text in texts if text is not None)
        return kept if len(kept) == length else None  # half an array would say something else

    def _can_keep(self, count: int) -> bool:
        """Whether there is room for so many bytes more, which are then taken."""
        if count > self._bytes_left:
            return False
        self._bytes_left -= count
        return True


def _letter(key: str, kind: int) -> str:
    letter = LETTERS.get(kind)
    if letter is None:  # an array of arrays too, as for llama.cpp
        raise Unreadable(f"is damaged: the metadata key {quoted(key)} has values of type {kind}")
    return letter


def _decoded(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def quoted(name: str) -> str:
    """A name from a file, quoted and shortened for an error message."""
    return repr(name if len(name) <= 80 else name[:80] + "...")
