"""LM Studio's models: where they are, and under which names they are served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import ModelSource
from tests.helpers.builders import a_gguf
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.catalog.lm_studio import lm_studio_folders
from workers.catalog.other_programs import ProgramFolder


def catalog(folder: Path, *entries: ConfiguredModel, is_configured: bool = False) -> Catalog:
    return Catalog([], LaunchSettings(), entries=entries, lm_studio=[ProgramFolder(str(folder), is_configured)])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("u/Foo-GGUF/Foo-Q4_K_M.gguf u/Foo-GGUF/Foo-Q8_0.gguf", "u/Foo-GGUF:Q4_K_M u/Foo-GGUF:Q8_0"),
        ("u/Foo/Foo-Q4_0-00001-of-00002.gguf u/Foo/Foo-Q4_0-00002-of-00002.gguf", "u/Foo:Q4_0"),
        ("u/Foo/sub/x.gguf u/Foo/x.gguf", "u/Foo:sub/x u/Foo:x"),
        ("x.gguf u/y.gguf", "x y"),
    ],
)
def test_a_file_is_named_by_its_repository_and_quantization(tmp_path: Path, files: str, expected: str):
    for file in files.split():
        a_gguf(tmp_path / file)
    models = catalog(tmp_path).models()
    assert [model.name for model in models] == expected.split()
    assert {model.source for model in models} == {ModelSource.LM_STUDIO}


@pytest.mark.parametrize("name", ["u/Foo-GGUF", "U/foo-gguf:q4_k_m", "u/Foo-GGUF:Foo-Q4_K_M.gguf"])
def test_a_model_is_found_by_the_names_of_its_repository(tmp_path: Path, name: str):
    a_gguf(tmp_path / "u" / "Foo-GGUF" / "Foo-Q4_K_M.gguf")
    assert catalog(tmp_path).find(name).name == "u/Foo-GGUF:Q4_K_M"


def test_a_projector_belongs_to_the_models_of_its_repository(tmp_path: Path):
    a_gguf(tmp_path / "u" / "Foo" / "Foo-Q4_K_M.gguf")
    a_gguf(tmp_path / "u" / "Bar" / "Bar-Q4_K_M.gguf")
    projector = a_gguf(tmp_path / "u" / "Foo" / "mmproj-model-f16.gguf")
    found = catalog(tmp_path)
    assert (found.find("u/Foo").launch.mmproj, found.find("u/Bar").launch.mmproj) == (str(projector), None)


def test_an_entry_may_name_a_repository_that_lm_studio_has_fetched(tmp_path: Path):
    path = a_gguf(tmp_path / "u" / "Foo-GGUF" / "Foo-Q4_K_M.gguf")
    entry = ConfiguredModel("mine", LaunchSettings(), repo="u/Foo-GGUF:Q4_K_M")
    assert [(model.name, model.path) for model in catalog(tmp_path, entry).models()] == [("mine", str(path))]


def test_a_download_that_is_not_complete_is_not_served(tmp_path: Path):
    a_gguf(tmp_path / "u" / "Foo" / "Foo-Q4_K_M.gguf.part")
    assert "is still being written" in catalog(tmp_path).find("u/Foo").problem


# --- places --------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def folders() -> list[str]:
    return [folder.path for folder in lm_studio_folders()]


def test_the_places_are_those_of_the_current_and_of_older_releases(home: Path):
    assert folders() == [str(home / ".lmstudio/models"), str(home / ".cache/lm-studio/models")]


def test_the_pointer_file_says_where_lm_studio_is(home: Path):
    (home / ".lmstudio-home-pointer").write_text(f"{home / 'data' / 'lms'}\n")
    assert folders()[0] == str(home / "data/lms/models")


@pytest.mark.parametrize("content", [b"", b"relative", b"/a\0b", b"/x" * 5000])
def test_a_pointer_file_that_names_no_folder_is_ignored(home: Path, content: bytes):
    (home / ".lmstudio-home-pointer").write_bytes(content)
    assert folders() == [str(home / ".lmstudio/models"), str(home / ".cache/lm-studio/models")]


def test_a_folder_that_was_chosen_in_lm_studio_is_used(home: Path):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": "/big/models"}))
    assert folders()[0] == "/big/models"


@pytest.mark.parametrize("content", ["", "[]", '{"downloadsFolder": 7}', '{"downloadsFolder": "x"}', "[" * 10_000])
def test_settings_without_a_folder_leave_the_default(home: Path, content: str):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(content)
    assert folders()[0] == str(home / ".lmstudio/models")


def test_a_missing_folder_is_a_warning_only_if_it_is_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    catalog(tmp_path / "nowhere")
    assert caplog.messages == []
    catalog(tmp_path / "nowhere", is_configured=True)
    assert caplog.messages == [f"{tmp_path / 'nowhere'} cannot be read: No such file or directory"]
