"""Reads the metadata of a GGUF file: its keys and values.

Long values and tokenizer arrays are skipped; of arrays the length is kept. The total size kept is bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from app.entities.gguf import Value
from workers.gguf.constants import DEFAULT_ALIGNMENT, Keys, ValueType
from workers.gguf.file_window import LENGTH, FileWindow, InvalidGguf

MAX_KEPT_BYTES = 1 << 21  # of keys and values, approximate size in memory; models have 50,000
MAX_ARRAY_VALUES = 4096  # longer arrays are skipped
MAX_STRING_BYTES = 1 << 16  # longer strings are skipped; chat templates are shorter
MAX_STRINGS = 10_000_000  # in the arrays of one file; Gemma 3 has 780,000
MAX_LENGTH = 1 << 30  # of a string or array: llama.cpp's own limit (b11434, ggml/src/gguf.cpp)
TOKENIZER = "tokenizer."
TOKENS = "tokenizer.ggml.tokens"
# What llama.cpp takes for the token between prefix, suffix and answer, where no key names it (b11549, llama-vocab.cpp,
# special_fim_mid_id), with a part of it that is rare enough to be searched first.
INFILL_KEYS = ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")
INFILL_TOKENS = {
    b"middle|>": (b"<|fim_middle|>", b"<|code_middle|>", b"<|middle|>"),
    b"middle>": (b"<fim-middle>", b"<fim_middle>"),
    b"<MID>": (b"<MID>", "▁<MID>".encode()),
    "fim▁end".encode(): ("<\uff5cfim▁end\uff5c>".encode(),),
}
VALUE_BYTES, STRING_BYTES, KEY_BYTES = 40, 60, 200  # approximate memory per object, without characters

NUMBER = struct.Struct("<I")
ARRAY_HEAD = struct.Struct("<IQ")  # type, length
STRUCT_CODES: dict[int, str] = {  # format characters of the `struct` module
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
    infill_tokens: list[bytes] = field(default_factory=list)  # those found that stand for the middle of a text

    @property
    def has_infill_tokens(self) -> bool:
        return bool(self.infill_tokens) or not self.values.keys().isdisjoint(INFILL_KEYS)

    @property
    def alignment(self) -> int:
        """Alignment of tensor data in bytes. Raises InvalidGguf."""
        alignment = self.values.get(Keys.General.ALIGNMENT, DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment.bit_count() != 1:
            raise InvalidGguf(f"is damaged: its alignment, {alignment!r}, is not a power of two")
        return alignment


def read_metadata(window: FileWindow, pairs: int) -> Metadata:
    """Read the next `pairs` key-value pairs. Raises InvalidGguf."""
    reader = _Reader(window)
    for _ in range(pairs):
        reader.read_pair()
    return reader.metadata


def read_leading_metadata(window: FileWindow, pairs: int) -> Metadata:
    """The pairs before the tokenizer's, which are by far the longest and come last in what converters write.

    Reads on if the architecture's keys have not come by then. Raises InvalidGguf.
    """
    reader = _Reader(window)
    for _ in range(pairs):
        if reader.read_pair().startswith(TOKENIZER) and reader.has_architecture:
            break
    return reader.metadata


class _Reader:
    def __init__(self, window: FileWindow) -> None:
        self.metadata = Metadata()
        self._window = window
        self._keys: set[str] = set()
        self._bytes_left = MAX_KEPT_BYTES
        self._strings_left = MAX_STRINGS

    @property
    def has_architecture(self) -> bool:
        """Whether the keys of the model's architecture have been read, as far as one of them shows."""
        architecture = self.metadata.values.get(Keys.General.ARCHITECTURE)
        return f"{architecture}.embedding_length" in self.metadata.values

    def read_pair(self) -> str:
        """Keep the next value, if it is not too long. Returns its key."""
        key = self._key()
        (kind,) = self._window.unpack(NUMBER)
        if key == Keys.General.ALIGNMENT and kind != ValueType.UINT32:
            raise InvalidGguf(f"is damaged: its alignment has type {kind}")
        value = self._array(key) if kind == ValueType.ARRAY else self._scalar(key, kind)
        if value is not None:
            self.metadata.values[key] = value
        return key

    def _key(self) -> str:
        (length,) = self._window.unpack(LENGTH)
        if not length:
            raise InvalidGguf("is damaged: it has an empty metadata key")
        if not self._reserve(length + KEY_BYTES):
            raise InvalidGguf("is damaged: its metadata keys are too many or too long")
        key = _decode(self._window.take(length))
        if not key.isprintable() or " " in key:  # llama.cpp logs it unescaped
            raise InvalidGguf(f"is damaged: {quote_name(key)} is not a valid metadata key")
        if key in self._keys:
            raise InvalidGguf(f"is damaged: metadata key {quote_name(key)} occurs twice")
        self._keys.add(key)
        return key

    def _scalar(self, key: str, kind: int) -> Value | None:
        if kind == ValueType.STRING:
            return self._string(key)
        (value,) = self._window.unpack(struct.Struct("<" + _struct_code(key, kind)))
        return value  # type: ignore[no-any-return]

    def _string(self, key: str) -> str | None:
        (length,) = self._window.unpack(LENGTH)
        if length > MAX_LENGTH:
            raise InvalidGguf(f"is damaged: metadata key {quote_name(key)} has a string of {length} bytes")
        if length > MAX_STRING_BYTES or not self._reserve(length + STRING_BYTES):
            self._window.skip(length)
            return None
        return _decode(self._window.take(length))

    def _array(self, key: str) -> Value | None:
        kind, length = self._window.unpack(ARRAY_HEAD)
        if length > MAX_LENGTH:
            raise InvalidGguf(f"is damaged: metadata key {quote_name(key)} has {length} values")
        self.metadata.lengths[key] = length
        is_kept = length <= MAX_ARRAY_VALUES and not key.startswith(TOKENIZER) and self._reserve(length * VALUE_BYTES)
        if kind == ValueType.STRING:
            return self._strings(key, length, is_kept)
        code = _struct_code(key, kind)
        if is_kept:
            return self._window.unpack(struct.Struct(f"<{length}{code}"))
        self._window.skip(length * struct.calcsize("<" + code))
        return None

    def _strings(self, key: str, length: int, is_kept: bool) -> Value | None:
        self._strings_left -= length
        if self._strings_left < 0:
            raise InvalidGguf(f"is damaged: its metadata has more than {MAX_STRINGS} strings, up to {quote_name(key)}")
        if not is_kept:
            found = self._window.skip_strings(length, INFILL_TOKENS if key == TOKENS else {})
            self.metadata.infill_tokens.extend(found)
            return None
        strings = [self._string(key) for _ in range(length)]
        kept = tuple(string for string in strings if string is not None)
        return kept if len(kept) == length else None  # never a partial array

    def _reserve(self, count: int) -> bool:
        """Whether `count` more bytes fit into the budget; if so, they are taken from it."""
        if count > self._bytes_left:
            return False
        self._bytes_left -= count
        return True


def _struct_code(key: str, kind: int) -> str:
    code = STRUCT_CODES.get(kind)
    if code is None:  # rejects arrays of arrays too, as llama.cpp does
        raise InvalidGguf(f"is damaged: metadata key {quote_name(key)} has values of unsupported type {kind}")
    return code


def _decode(content: bytes) -> str:
    return content.decode(errors="backslashreplace")


def quote_name(name: str) -> str:
    """Quote and shorten a name from a file for an error message."""
    return repr(name if len(name) <= 80 else name[:80] + "...")
