"""Grouping of files into models: parts and projectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.builders import a_gguf
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import walk
from workers.catalog.model_files import ModelFiles, group_files


def models(folder: Path, one_family: bool = False) -> dict[str, ModelFiles]:
    notes: list[str] = []
    files = walk(str(folder), FileSummaries(), notes, set())
    return {model.name: model for model in group_files(files, notes, one_family)}


def projectors(folder: Path, files: str, one_family: bool = False) -> dict[str, str]:
    """Model -> its projector, for these files."""
    for file in files.split():
        a_gguf(folder / file)
    found = models(folder, one_family).items()
    return {name: model.projector.relative_path for name, model in found if model.projector is not None}


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ((1, 2, 3), ""),
        ((1, 3), "part 2 of 3 is missing: big-00002-of-00003.gguf"),
        ((2, 3), "part 1 of 3 is missing: big-00001-of-00003.gguf"),
        ((1, 2), "part 3 of 3 is missing: big-00003-of-00003.gguf"),
        ((2,), "2 of 3 parts are missing, the first of them: big-00001-of-00003.gguf"),
        ((1,), "2 of 3 parts are missing, the first of them: big-00002-of-00003.gguf"),
    ],
)
def test_a_split_model_is_one_model_and_names_the_missing_part(tmp_path: Path, parts: tuple[int, ...], problem: str):
    for part in parts:
        a_gguf(tmp_path / f"big-0000{part}-of-00003.gguf", size_bytes=1000 * part)
    found = models(tmp_path)
    assert list(found) == ["big"]
    big = found["big"]
    assert (big.path, big.size_bytes, big.problem) == (
        str(tmp_path / "big-00001-of-00003.gguf"),
        sum(1000 * part for part in parts),
        problem,
    )


def test_a_broken_part_is_the_models_problem(tmp_path: Path):
    a_gguf(tmp_path / "big-00001-of-00002.gguf")
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(b"")
    assert models(tmp_path)["big"].problem == "big-00002-of-00002.gguf is empty"


def test_parts_of_different_folders_or_numbers_are_different_models(tmp_path: Path):
    for file in ("a/big-00001-of-00002", "b/big-00002-of-00002", "c/big-00001-of-00001"):
        a_gguf(tmp_path / f"{file}.gguf")
    found = group_files(walk(str(tmp_path), FileSummaries(), [], set()), [])
    assert [(model.name, bool(model.problem)) for model in found] == [("big", True), ("big", True), ("big", False)]


def test_an_absurd_number_of_parts_takes_no_time(tmp_path: Path):
    a_gguf(tmp_path / "big-00001-of-99999.gguf")
    expected = "99998 of 99999 parts are missing, the first of them: big-00002-of-99999.gguf"
    assert models(tmp_path)["big"].problem == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # both names have the same family
        ("qwen-vl-7b-Q4_K_M.gguf mmproj-Qwen-VL-7B-f16.gguf", {"qwen-vl-7b-Q4_K_M": "mmproj-Qwen-VL-7B-f16.gguf"}),
        (
            "qwen-vl-7b-Q8_0.gguf qwen-vl-3b-Q8_0.gguf mmproj-qwen-vl-3b.gguf",
            {"qwen-vl-3b-Q8_0": "mmproj-qwen-vl-3b.gguf"},
        ),
        ("m/vl-Q8_0.gguf p/vl-mmproj.gguf", {"vl-Q8_0": "p/vl-mmproj.gguf"}),
        ("vl.gguf VL-MMPROJ-F16.GGUF", {"vl": "VL-MMPROJ-F16.GGUF"}),
        # no family in its name: the only model of its folder, in any number of quantizations
        ("vl-Q4_0.gguf vl-Q8_0.gguf mmproj-F16.gguf", {"vl-Q4_0": "mmproj-F16.gguf", "vl-Q8_0": "mmproj-F16.gguf"}),
        ("vl-Q4_0.gguf mmproj-model-f16.gguf", {"vl-Q4_0": "mmproj-model-f16.gguf"}),
        ("model-Q4_0.gguf mmproj.gguf", {"model-Q4_0": "mmproj.gguf"}),
        ("big-00001-of-00001.gguf mmproj.gguf", {"big": "mmproj.gguf"}),
        # never a guess
        ("vl-Q4_0.gguf other-Q4_0.gguf mmproj-F16.gguf", {}),
        ("vl-Q4_0.gguf p/mmproj-F16.gguf", {}),
        ("vl-Q4_0.gguf mmproj-other-F16.gguf", {}),
        ("model-Q4_0.gguf vl-Q4_0.gguf mmproj-F16.gguf", {}),
        # same folder first, then by quantization, then by name
        ("a/vl.gguf a/mmproj-vl-Q8_0.gguf b/mmproj-vl-F16.gguf", {"vl": "a/mmproj-vl-Q8_0.gguf"}),
        ("vl.gguf mmproj-BF16.gguf mmproj-F16.gguf mmproj-F32.gguf", {"vl": "mmproj-F16.gguf"}),
        ("vl.gguf mmproj-F32.gguf mmproj-BF16.gguf", {"vl": "mmproj-BF16.gguf"}),
        ("vl.gguf mmproj-Q8_0.gguf mmproj-F32.gguf", {"vl": "mmproj-F32.gguf"}),
        ("vl.gguf mmproj-Q4_0.gguf mmproj-Q8_0.gguf", {"vl": "mmproj-Q8_0.gguf"}),
        ("vl.gguf mmproj-Q5_0.gguf mmproj-Q4_0.gguf", {"vl": "mmproj-Q4_0.gguf"}),
    ],
)
def test_a_projector_belongs_to_the_model_it_names(tmp_path: Path, files: str, expected: dict[str, str]):
    assert projectors(tmp_path, files) == expected


def test_in_a_repository_with_one_model_a_projector_may_have_any_name(tmp_path: Path):
    files = "gemma-3-4b-it-q4_0.gguf sub/mmproj-model-f16-4B.gguf"
    assert projectors(tmp_path, files, one_family=True) == {"gemma-3-4b-it-q4_0": "sub/mmproj-model-f16-4B.gguf"}
    assert projectors(tmp_path, "other-q4_0.gguf", one_family=True) == {}


def test_a_broken_projector_is_not_used(tmp_path: Path):
    a_gguf(tmp_path / "vl.gguf")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"")
    assert projectors(tmp_path, "mmproj-BF16.gguf") == {"vl": "mmproj-BF16.gguf"}


def test_links_to_folders_are_followed_and_no_folder_is_read_twice(tmp_path: Path):
    a_gguf(tmp_path / "models" / "a.gguf")
    a_gguf(tmp_path / "elsewhere" / "b.gguf")
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models")
    (tmp_path / "models" / "self").symlink_to("self")
    (tmp_path / "models" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    found = walk(str(tmp_path / "models"), FileSummaries(), [], set())
    assert [file.relative_path for file in found] == ["a.gguf", "more/b.gguf"]


def test_shallow_files_come_first_then_names(tmp_path: Path):
    for file in ("z.gguf", "b/a.gguf", "a/z.gguf", "a/a/a.gguf", "m.gguf"):
        a_gguf(tmp_path / file)
    found = [file.relative_path for file in walk(str(tmp_path), FileSummaries(), [], set())]
    assert found == ["m.gguf", "z.gguf", "a/z.gguf", "b/a.gguf", "a/a/a.gguf"]
