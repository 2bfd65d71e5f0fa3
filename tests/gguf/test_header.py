"""Reading GGUF headers, and the errors for files whose header is missing, invalid or truncated."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from app.entities.gguf import GgufHeader, Tensor
from app.errors import InvalidModelFile
from tests.helpers.gguf_bytes import F16, F32, Q4_0, TINY, Info, Typed, a_file, a_header, text
from workers.gguf import file_window
from workers.gguf import header as header_module
from workers.gguf.constants import ValueType
from workers.gguf.header import read_header
from workers.gguf.metadata import MAX_ARRAY_VALUES, MAX_STRING_BYTES
from workers.gguf.tensors import MAX_TENSORS

MIB = 1024**2
ALL_KINDS = {
    "general.architecture": "gemma3",
    "u8": Typed(ValueType.UINT8, 255),
    "i8": Typed(ValueType.INT8, -128),
    "u16": Typed(ValueType.UINT16, 65535),
    "i16": Typed(ValueType.INT16, -32768),
    "u32": Typed(ValueType.UINT32, 2**32 - 1),
    "i32": Typed(ValueType.INT32, -(2**31)),
    "f32": 0.5,
    "bool": True,
    "u64": Typed(ValueType.UINT64, 2**64 - 1),
    "i64": Typed(ValueType.INT64, -(2**63)),
    "f64": Typed(ValueType.FLOAT64, 0.1),
    "gemma3.attention.head_count_kv": [4, 8, 4],
    "gemma3.attention.sliding_window_pattern": [True, False],
    "general.tags": ["näher", ""],
    "empty": Typed(ValueType.INT32, []),
}


@pytest.fixture
def problem(tmp_path: Path) -> Callable[[bytes], str]:
    """The problem of a file with this content, without the file's name."""

    def of(content: bytes) -> str:
        (tmp_path / "x.gguf").write_bytes(content)
        return problem_of(tmp_path / "x.gguf").removeprefix("x.gguf ")

    return of


def problem_of(path: Path) -> str:
    try:
        read_header(str(path))
    except InvalidModelFile as error:
        return error.problem
    return ""


def read(folder: Path, content: bytes) -> GgufHeader:
    (folder / "x.gguf").write_bytes(content)
    return read_header(str(folder / "x.gguf"))


# --- reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_type_are_read(tmp_path: Path, version: int):
    header = read(tmp_path, a_file(ALL_KINDS, version=version))
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in ALL_KINDS.items()}
    assert header.metadata == {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    assert header.lengths == {key: len(value) for key, value in plain.items() if isinstance(value, list)}
    assert header.architecture == "gemma3"


def test_tensors_have_the_sizes_of_their_types(tmp_path: Path):
    infos = [Info("a", (64, 3), Q4_0), Info("b", (3, 5, 7, 2), F16), Info("c", (), F32), Info("d", (0, 4), F32)]
    assert read(tmp_path, a_file(TINY, infos)).tensors == (
        Tensor("a", (64, 3), "Q4_0", 108),  # 192 values in blocks of 32, 18 bytes each
        Tensor("b", (3, 5, 7, 2), "F16", 420),
        Tensor("c", (), "F32", 4),
        Tensor("d", (0, 4), "F32", 0),
    )


@pytest.mark.integration
def test_files_written_by_the_gguf_package_are_read(tmp_path: Path):
    """Writes in another process: numpy must not be imported into this one."""
    script = """if True:
        import sys, gguf, numpy
        writer = gguf.GGUFWriter(sys.argv[1], "qwen3moe")
        writer.add_custom_alignment(64)
        writer.add_block_count(2)
        writer.add_token_list(["a", "bc"])
        writer.add_array("qwen3moe.feed_forward_length", [3, 5])
        writer.add_tensor("half", numpy.zeros((3, 8), numpy.float16))
        blocks = gguf.quants.quantize(numpy.zeros((2, 64), numpy.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
    """
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "w.gguf")], check=True)
    header = read_header(str(tmp_path / "w.gguf"))
    assert header.tensors == (Tensor("half", (8, 3), "F16", 48), Tensor("blocks", (64, 2), "Q8_0", 136))
    assert header.lengths == {"tokenizer.ggml.tokens": 2, "qwen3moe.feed_forward_length": 2}
    assert header.metadata["qwen3moe.feed_forward_length"] == (3, 5)
    assert "tokenizer.ggml.tokens" not in header.metadata


@pytest.mark.integration
def test_the_constants_are_loaded_without_the_package():
    code = "import workers.gguf.constants, sys; print({'gguf', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.integration
def test_the_constants_equal_those_of_the_package():
    code = """if True:
        from gguf import constants as theirs
        from workers.gguf import constants as ours
        types = {int(t): (t.name, *theirs.GGML_QUANT_SIZES[t]) for t in theirs.GGMLQuantizationType}
        assert ours.TENSOR_TYPES == types | {9: ("Q8_1", 32, 36), 42: ("Q2_0", 64, 18)} and ours.MAGIC == b"GGUF"
        assert {t.name: t.value for t in ours.ValueType} == {t.name: t.value for t in theirs.GGUFValueType}
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_tokenizer_and_long_arrays_only_the_length_is_kept(tmp_path: Path):
    most = MAX_ARRAY_VALUES
    long = {
        "tokenizer.ggml.tokens": ["token"] * 3,
        "tokenizer.ggml.scores": [float("nan")] * 3,
        "kept": [7] * most,
        "numbers": [7] * (most + 1),
        "texts": ["x" * 100] * (most + 1),
        "longest": "x" * MAX_STRING_BYTES,
        "too_long": "x" * (MAX_STRING_BYTES + 1),
        "one_too_long": ["a", "x" * (MAX_STRING_BYTES + 1), "b"],
        "last": 1,
    }
    header = read(tmp_path, a_file(TINY | long))
    assert set(header.metadata) == {*TINY, "kept", "longest", "last"}
    assert header.lengths == {key: len(value) for key, value in long.items() if isinstance(value, list)}


def test_a_string_may_end_anywhere_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokens = ["x" * (length % 40) for length in range(200)]
    content = a_file(TINY | {"tokenizer.ggml.tokens": tokens, "last": 17, "text": "x" * 300})
    for window_bytes in range(1, 300):
        monkeypatch.setattr(file_window, "WINDOW_BYTES", window_bytes)
        header = read(tmp_path, content)
        assert (header.metadata["last"], len(header.tensors)) == (17, 1)


@pytest.mark.parametrize(
    "token", ["<|fim_middle|>", "<fim_middle>", "▁<MID>", "<\uff5cfim▁end\uff5c>", "<|code_middle|>"]
)
def test_a_token_for_infill_is_found_anywhere_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str):
    tokens = ["x" * (length % 40) for length in range(50)]
    content = a_file(TINY | {"tokenizer.ggml.tokens": [*tokens, token, *tokens]})
    for window_bytes in range(1, 300, 7):
        monkeypatch.setattr(file_window, "WINDOW_BYTES", window_bytes)
        assert read(tmp_path, content).has_infill_tokens


def test_only_a_whole_token_of_the_vocabulary_is_one_for_infill(tmp_path: Path):
    near = TINY | {"tokenizer.ggml.tokens": ["a<|fim_middle|>", "middle|>", "<MID"], "text": "<|fim_middle|>"}
    assert not read(tmp_path, a_file(near)).has_infill_tokens
    assert read(tmp_path, a_file(TINY | {"tokenizer.ggml.fim_mid_token_id": 7})).has_infill_tokens


def test_invalid_utf8_is_escaped_and_stays_distinct(tmp_path: Path):
    header = read(tmp_path, a_file({b"\xff": 1, b"\xfe": 2, "k": b"\xfd"}))
    assert header.metadata == {"\\xff": 1, "\\xfe": 2, "k": "\\xfd"}


def test_bytes_after_the_data_are_ignored(tmp_path: Path):
    assert len(read(tmp_path, a_file() + b"more").tensors) == 1


# --- parts ----------------------------------------------------------------------------------------------------


def write_parts(folder: Path, count: int = 3, **changes: object) -> Path:
    """Write a split model; `changes`: metadata of part 2, with "__" for dots in keys."""
    for index in range(count):
        metadata = {
            "split.no": Typed(ValueType.UINT16, index),
            "split.count": Typed(ValueType.UINT16, count),
            "split.tensors.count": Typed(ValueType.INT32, count),
        }
        if index == 0:
            metadata = {**TINY, **metadata}
        if index == 1:
            metadata |= {key.replace("__", "."): value for key, value in changes.items()}
        (folder / f"big-{index + 1:05}-of-{count:05}.gguf").write_bytes(a_file(metadata, [Info(f"t{index}")]))
    return folder / f"big-00001-of-{count:05}.gguf"


def test_the_parts_of_a_split_model_are_read_as_one(tmp_path: Path):
    header = read_header(str(write_parts(tmp_path, block_count=7)))
    assert [tensor.name for tensor in header.tensors] == ["t0", "t1", "t2"]
    assert header.metadata == {**TINY, "split.no": 0, "split.count": 3, "split.tensors.count": 3}


def test_the_first_part_may_contain_metadata_only(tmp_path: Path):
    first = write_parts(tmp_path)
    metadata = {**TINY, "split.no": 0, "split.count": 3, "split.tensors.count": 2}
    first.write_bytes(a_file(metadata, []))
    assert [tensor.name for tensor in read_header(str(first)).tensors] == ["t1", "t2"]


def test_a_missing_part_is_named(tmp_path: Path):
    first = write_parts(tmp_path)
    (tmp_path / "big-00002-of-00003.gguf").unlink()
    assert problem_of(first) == "part 2 of 3 is missing: big-00002-of-00003.gguf"


def test_a_truncated_part_is_named(tmp_path: Path):
    first = write_parts(tmp_path)
    last = tmp_path / "big-00003-of-00003.gguf"
    whole = last.stat().st_size
    os.truncate(last, whole - 1)
    assert problem_of(first) == f"{last.name} is truncated or still being written: it has {whole - 1} of {whole} bytes"


def test_a_part_under_the_name_of_another_is_detected(tmp_path: Path):
    first = write_parts(tmp_path, split__no=Typed(ValueType.UINT16, 2))
    assert problem_of(first) == (
        "big-00002-of-00003.gguf has a mismatched part number: 2 by its name, 2 by its header (split.no, from 0)"
    )


def test_a_part_of_another_model_is_detected(tmp_path: Path):
    first = write_parts(tmp_path)
    part = tmp_path / "big-00002-of-00003.gguf"
    metadata = {"split.no": Typed(ValueType.UINT16, 1)}
    part.write_bytes(a_file(metadata, [Info("t0")]))
    assert problem_of(first) == "big-00001-of-00003.gguf is damaged: two of its parts contain the same tensor"
    part.write_bytes(a_file(metadata, [Info("a"), Info("b")]))
    assert problem_of(first) == "big-00001-of-00003.gguf is damaged: its parts contain 4 tensors, its header declares 3"


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("whole.gguf", 3, "has a mismatched part count: 1 by its name, 3 by its header (split.count)"),
        (
            "big-00001-of-00002.gguf",
            3,
            "has a mismatched part count: 2 by its name, 3 by its header (split.count)",
        ),
        ("whole.gguf", 0, ""),
        ("whole.gguf", 1, ""),
        ("one-00001-of-00001.gguf", 1, ""),
    ],
)
def test_the_name_and_the_header_must_agree_on_the_part_count(tmp_path: Path, name: str, count: int, expected: str):
    (tmp_path / name).write_bytes(a_file(TINY | {"split.count": Typed(ValueType.UINT16, count)}))
    assert problem_of(tmp_path / name) == (f"{name} {expected}" if expected else "")


# --- invalid files ----------------------------------------------------------------------------------------------


def test_anything_but_a_regular_file_is_rejected_at_once(tmp_path: Path):
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "link.gguf").symlink_to("link.gguf")
    (tmp_path / "page.gguf").write_bytes(b"<!doctype html>" + bytes(100))
    assert {path.name: problem_of(path) for path in [*tmp_path.iterdir(), tmp_path / "none.gguf"]} == {
        "folder.gguf": "folder.gguf is a directory, not a file",
        "pipe.gguf": "pipe.gguf is not a regular file",
        "link.gguf": "link.gguf cannot be read: Too many levels of symbolic links",
        "page.gguf": "page.gguf is a web page or a JSON message, not a model: download it again, logged in if required",
        "none.gguf": "none.gguf cannot be read: No such file or directory",
    }
    assert problem_of(Path("/dev/null")) == "null is not a regular file"


@pytest.mark.parametrize("number", [13, 5])
def test_the_error_for_an_unreadable_file_gives_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    (tmp_path / "x.gguf").write_bytes(a_file())

    def refuse(*_: object) -> bytes:  # chmod would not stop root
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open" if number == 13 else "pread", refuse)
    assert problem_of(tmp_path / "x.gguf") == f"x.gguf cannot be read: {os.strerror(number)}"


def damaged(detail: str) -> str:
    return f"is damaged: {detail}"


NESTED = Typed(ValueType.ARRAY, [b""])
TWO_TS = [Info("a"), Info("t"), Info("t")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (a_header({"a": 1, "": 1}), damaged("it has an empty metadata key")),
        (a_header({"k": 1, b"k": 1}), damaged("metadata key 'k' occurs twice")),
        (a_header({"k": Typed(13, b"")}), damaged("metadata key 'k' has values of unsupported type 13")),
        (a_header({"k": Typed(2**32 - 1, b"")}), damaged("metadata key 'k' has values of unsupported type 4294967295")),
        (a_header({"k": NESTED}), damaged("metadata key 'k' has values of unsupported type 9")),
        (a_header({"k" * 99: NESTED}), damaged(f"metadata key '{'k' * 80}...' has values of unsupported type 9")),
        (a_header({"nested": NESTED}), damaged("metadata key 'nested' has values of unsupported type 9")),
        # llama.cpp logs keys unescaped: they could imitate its own log lines
        (a_header({"\x1b[31m": 1}), damaged("'\\x1b[31m' is not a valid metadata key")),
        (a_header({"a\nb": 1}), damaged("'a\\nb' is not a valid metadata key")),
        (
            a_header({"a: KV buffer size=1MiB": 1}),
            damaged("'a: KV buffer size=1MiB' is not a valid metadata key"),
        ),
        (a_header({"general.alignment": 48}), damaged("its alignment, 48, is not a power of two")),
        (a_header({"general.alignment": 0}), damaged("its alignment, 0, is not a power of two")),
        (a_header({"general.alignment": "32"}), damaged("its alignment has type 8")),
        (a_header(TINY, [Info("x" * 64)]), damaged("a tensor has a name of 64 bytes")),
        (a_header(TINY, TWO_TS), damaged("tensor 't' occurs twice")),
        (a_header(TINY, [Info(shape=(1,) * 5)]), damaged("tensor 't' has 5 dimensions")),
        (a_header(TINY, [Info(shape=(2, -1))]), damaged("tensor 't' has an invalid shape: (2, -1)")),
        (
            a_header(TINY, [Info(shape=(2**32, 2**32))]),
            damaged("tensor 't' has an invalid shape: (4294967296, 4294967296)"),
        ),
        (
            a_header(TINY, [Info(shape=(33,), type=Q4_0)]),
            damaged("tensor 't' has rows of 33, but Q4_0 blocks of 32"),
        ),
        (
            a_header(TINY, [Info(shape=(), type=Q4_0)]),
            damaged("tensor 't' has rows of 1, but Q4_0 blocks of 32"),
        ),
        (a_header(TINY, [Info(), Info("u", offset=64)]), damaged("tensor 'u' is at offset 64, not 32")),
        (a_header(TINY, [Info(offset=32)]), damaged("tensor 't' is at offset 32, not 0")),
        *(
            (
                a_header(TINY, [Info(type=kind)]),
                f"is damaged or too new: tensor 't' has the unknown type {kind}",
            )
            for kind in (4, 31, 43, 2**32 - 1)
        ),
    ],
)
def test_what_llama_cpp_rejects_is_rejected_in_one_line(problem: Callable[[bytes], str], content: bytes, expected: str):
    assert problem(content + bytes(1000)) == expected


def test_a_file_still_being_written_is_detected_by_its_length(problem: Callable[[bytes], str]):
    whole = a_header(TINY, [Info("a", (100,)), Info("b", (3,))])  # 100 values of 4 bytes, padded to 416; 3 of 4 bytes
    assert problem(whole + bytes(416 + 12)) == ""  # no padding after the last tensor
    for missing in (1, 12, 100, 428):
        actual = len(whole) + 428 - missing
        expected = f"is truncated or still being written: it has {actual} of {len(whole) + 428} bytes"
        assert problem(whole + bytes(428 - missing)) == expected


def test_a_file_truncated_anywhere_is_rejected(tmp_path: Path):
    content = a_file(ALL_KINDS, [Info("a", (64, 3), Q4_0), Info("b")])[:-1]  # the data is one byte short already
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    for length in range(len(content), -1, -1):
        os.truncate(path, length)
        assert problem_of(path), f"truncated to {length} bytes"


def test_a_file_truncated_while_it_is_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a memory-mapped file this would kill the process."""
    path = tmp_path / "x.gguf"
    path.write_bytes(a_file(TINY | {"tokenizer.ggml.tokens": ["x" * 50] * 100_000}))
    pread = os.pread

    def truncate_after(number: int, count: int, at: int) -> bytes:
        piece = pread(number, count, at)
        os.truncate(path, 10)
        return piece

    monkeypatch.setattr(os, "pread", truncate_after)
    assert "is truncated or still being written: it ends in its header" in problem_of(path)


# --- hostile files ------------------------------------------------------------------------------------------------


def test_ten_thousand_damaged_headers_are_read_or_rejected_in_one_line(tmp_path: Path, seed: int):
    """Expected: 2 s."""
    rng = random.Random(seed)
    good = a_file(ALL_KINDS | {"tokenizer.ggml.tokens": ["a", "bc"]}, [Info("a", (64, 3), Q4_0), Info("b"), Info("c")])
    head = len(good) - 108 - 20 - 32 - 32
    number = os.open(tmp_path / "x.gguf", os.O_RDWR | os.O_CREAT)
    problems: set[str] = set()
    began = time.process_time()
    for turn in range(10_000):
        if turn == 9_000:  # it makes reading three times as slow
            tracemalloc.start()
        os.pwrite(number, damage(good, head, rng), 0)
        try:
            read_header(str(tmp_path / "x.gguf"))
        except InvalidModelFile as error:
            assert len(error.problem) < 400 and error.problem.isprintable(), error.problem
            problems.add(error.problem.removeprefix("x.gguf is damaged: ")[:12])
    assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    tracemalloc.stop()
    os.close(number)
    assert len(problems) > 15, "the damage is of many kinds"
    assert time.process_time() - began < 40


def damage(good: bytes, head: int, rng: random.Random) -> bytes:
    """The file with a few changes in its header: random bytes, bits, lengths, counts or types."""
    content = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(head)
        match rng.randrange(4):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                content[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1)))
            case 3:
                content[at : at + 4] = struct.pack("<I", rng.randrange(16))
    return bytes(content[: len(good)])


def counted(tensors: int = 1, pairs: int = 1) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs)


def an_array(kind: int, length: int) -> bytes:
    """A file that begins with a metadata array of `length` elements."""
    return counted() + text("k") + struct.pack("<IIQ", ValueType.ARRAY, kind, length)


ABSURD = [
    (counted(tensors=2**40), "declares 1099511627776 tensors and 1 metadata keys, more than its"),
    (counted(tensors=MAX_TENSORS + 1, pairs=2) + a_header()[24:], "it declares 65537 tensors"),
    (counted(pairs=2**32), "it has an empty metadata key"),  # the hole is zeros
    (counted() + struct.pack("<Q", 2**33), "its metadata keys are too many or too long"),
    (counted() + struct.pack("<Q", 2**64 - 1), "its metadata keys are too many or too long"),
    (counted() + text("k") + struct.pack("<IQ", ValueType.STRING, 2**31), "'k' has a string of 2147483648 bytes"),
    (counted() + text("k") + struct.pack("<IQ", ValueType.STRING, 2**30), ""),
    (an_array(ValueType.STRING, 2**30), "its metadata has more than 10000000 strings, up to 'k'"),
    (an_array(ValueType.STRING, 2**63), "'k' has 9223372036854775808 values"),
    (an_array(ValueType.UINT64, 2**30 + 1), "'k' has 1073741825 values"),
    (an_array(ValueType.STRING, 500_000), ""),
    (an_array(ValueType.FLOAT64, 2**30), ""),
]


@pytest.mark.parametrize(("begin", "expected"), ABSURD, ids=range(len(ABSURD)))
def test_a_huge_file_with_absurd_lengths_is_read_or_rejected_quickly(tmp_path: Path, begin: bytes, expected: str):
    """Expected: 0.5 s for the strings, 1 ms for the others."""
    path = tmp_path / "x.gguf"
    path.write_bytes(begin)
    os.truncate(path, 2**40)  # sparse: takes no space on disk
    began = time.process_time()
    tracemalloc.start()
    actual = problem_of(path)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < 16 * MIB
    assert expected in actual and bool(expected) == bool(actual), actual
    assert time.process_time() - began < 10


def test_a_file_full_of_keys_takes_little_memory(problem: Callable[[bytes], str]):
    keys = b"".join(text(f"{number:050}") + struct.pack("<IB", ValueType.UINT8, 1) for number in range(50_000))
    tracemalloc.start()
    actual = problem(counted(pairs=50_000) + keys + bytes(100))
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert actual == damaged("its metadata keys are too many or too long")
    assert memory < 16 * MIB


def test_values_beyond_the_memory_limit_are_skipped(tmp_path: Path):
    many = {f"k{number}": [number] * 4000 for number in range(40)}
    header = read(tmp_path, a_file(TINY | many))
    kept = [key for key in many if key in header.metadata]
    assert 5 < len(kept) < 40 and kept == list(many)[: len(kept)]
    assert len(header.lengths) == 40


def test_the_tensor_limit_covers_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(header_module, "MAX_TENSORS", 1)
    assert problem_of(write_parts(tmp_path)) == (
        "big-00001-of-00003.gguf is damaged: its parts contain 2 tensors, its header declares 3"
    )


def test_a_header_as_long_as_gemmas_is_read_quickly(tmp_path: Path):
    """Expected: at most 60 ms; bench/headers.py measures it."""
    strings = struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, 780_000) + text(b"12345678") * 780_000
    (tmp_path / "x.gguf").write_bytes(counted(pairs=1) + text("tokenizer.ggml.tokens") + strings + a_file()[-128:])
    began = time.process_time()
    problem_of(tmp_path / "x.gguf")
    assert time.process_time() - began < 20 * 0.06
