"""Files that another program is still writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.errors import InvalidModelFile
from tests.helpers.builders import GGUF_BYTES, a_gguf
from workers.catalog.catalog import Catalog, ConfiguredModel


def problems(folder: Path, *entries: ConfiguredModel) -> dict[str, str]:
    return {model.name: model.problem for model in Catalog([folder], LaunchSettings(), entries=entries).models()}


def still_written(name: str, marker: str) -> str:
    return (
        f"{name} is still being written ({marker} exists). It can be served when the download is complete; if it was "
        "aborted, resume it or delete its files"
    )


SUFFIXES = (".aria2", ".part", ".!qB", ".crdownload", ".incomplete", ".downloadInProgress")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_with_a_downloads_file_beside_it_is_still_being_written(tmp_path: Path, suffix: str):
    """jan#5266: aria2 allocates the whole file at once, so that its size and header look complete."""
    a_gguf(tmp_path / "x.gguf")
    a_gguf(tmp_path / "other.gguf")
    (tmp_path / f"x.gguf{suffix}").write_bytes(b"GGUF")
    assert sum(model.size_bytes for model in Catalog([tmp_path], LaunchSettings()).models()) == 2 * GGUF_BYTES
    assert problems(tmp_path) == {"other": "", "x": still_written("x.gguf", f"x.gguf{suffix}")}


def test_parts_that_lm_studio_has_and_is_downloading_are_one_model(tmp_path: Path):
    """lmstudio-bug-tracker#1477: its unfinished files have a prefix, too, which made them models of their own."""
    first, second = (f"big-0000{part}-of-00002.gguf" for part in (1, 2))
    a_gguf(tmp_path / first)
    a_gguf(tmp_path / f"downloading_{second}.part")
    assert problems(tmp_path) == {"big": still_written(second, f"downloading_{second}.part")}
    a_gguf(tmp_path / second)
    assert problems(tmp_path) == {"big": still_written(second, f"downloading_{second}.part")}
    (tmp_path / f"downloading_{second}.part").unlink()
    assert problems(tmp_path) == {"big": ""}


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_file_under_a_downloads_name_is_listed_under_its_own(tmp_path: Path, suffix: str):
    a_gguf(tmp_path / "sub" / "x.gguf").rename(tmp_path / "sub" / f"x.gguf{suffix}")
    assert problems(tmp_path) == {"x": still_written("x.gguf", f"x.gguf{suffix}")}


def test_other_files_of_downloads_are_not_models(tmp_path: Path):
    for name in ("x.gguf.aria2", "x.zip.part", ".x.gguf.part", "x.gguf.part.meta", "x.gguf.txt"):
        a_gguf(tmp_path / "x.gguf").rename(tmp_path / name)
    assert problems(tmp_path) == {}


def test_a_part_that_is_still_being_written_is_its_models_problem(tmp_path: Path):
    for part in (1, 2):
        a_gguf(tmp_path / f"big-0000{part}-of-00002.gguf")
    second = tmp_path / "big-00002-of-00002.gguf"
    second.rename(tmp_path / f"{second.name}.!qB")
    assert problems(tmp_path) == {"big": still_written(second.name, f"{second.name}.!qB")}


def test_a_projector_that_is_still_being_written_is_not_used(tmp_path: Path):
    a_gguf(tmp_path / "m.gguf")
    a_gguf(tmp_path / "mmproj-F16.gguf").rename(tmp_path / "mmproj-F16.gguf.part")
    catalog = Catalog([tmp_path], LaunchSettings())
    assert catalog.find("m").launch.mmproj is None
    assert "mmproj-F16.gguf is still being written" in catalog.warnings[0]


@pytest.mark.parametrize("folder", ["models", "far"])
def test_an_entrys_file_may_still_be_written(tmp_path: Path, folder: str):
    (tmp_path / "models").mkdir()
    a_gguf(tmp_path / folder / "x.gguf").rename(tmp_path / folder / "x.gguf.part")
    mine = ConfiguredModel("mine", LaunchSettings(), path=tmp_path / folder / "x.gguf")
    assert problems(tmp_path / "models", mine) == {"mine": still_written("x.gguf", "x.gguf.part")}


def test_a_repository_that_is_being_fetched_is_an_entrys_problem(tmp_path: Path):
    blobs = tmp_path / "models--u--Foo" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").touch()
    mine = ConfiguredModel("mine", LaunchSettings(), repo="u/Foo:Q8_0")
    catalog = Catalog([], LaunchSettings(), hub_cache=tmp_path, entries=[mine])
    with pytest.raises(
        InvalidModelFile, match="is being downloaded, or resume it with: llama-smart-proxy pull u/Foo:Q8_0"
    ):
        catalog.servable(catalog.find("mine"))
