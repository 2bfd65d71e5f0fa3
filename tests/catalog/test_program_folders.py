"""Which folders of other programs the settings mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.settings.schema import Settings
from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import LIBRARY, a_manifest, gguf_bytes
from workers.build_catalog import build_catalog, has_models


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the places that `auto` means, one model of each program; in `elsewhere` another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/usual/1b", model=gguf_bytes(name="usual"))
    a_manifest(tmp_path / "elsewhere" / "ollama", f"{LIBRARY}/other/1b", model=gguf_bytes(name="other"))
    a_gguf(tmp_path / "home" / ".lmstudio" / "models" / "u" / "Usual" / "a-Q4_0.gguf")
    a_gguf(tmp_path / "elsewhere" / "lms" / "u" / "Other" / "b-Q4_0.gguf")
    return tmp_path


def settings(**catalog: Any) -> Settings:
    return Settings(catalog={"hugging_face": {"cache": "off"}, **catalog})


def names(**catalog: Any) -> list[str]:
    return [model.name for model in build_catalog(settings(**catalog), with_demo=False).models()]


def test_the_usual_folders_are_found_without_a_setting():
    assert names() == names(ollama="auto", lm_studio="auto") == ["u/Usual:Q4_0", "usual:1b"]


def test_each_can_be_switched_off():
    assert names(ollama="off") == ["u/Usual:Q4_0"]
    assert names(ollama=False, lm_studio=False) == []


def test_a_path_replaces_the_usual_folders(home: Path):
    assert names(ollama=str(home / "elsewhere" / "ollama"), lm_studio=str(home / "elsewhere" / "lms")) == [
        "other:1b",
        "u/Other:Q4_0",
    ]


def test_a_path_of_the_configuration_counts_as_models_of_ones_own():
    """The demo model is for those who have configured none."""
    assert [has_models(settings(**each)) for each in ({}, {"ollama": "off"}, {"lm_studio": "/lms"})] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("value", ["", "on", True])
def test_a_value_that_is_neither_is_rejected(value: object):
    with pytest.raises(ValueError, match="must be auto, off or a path"):
        settings(ollama=value)
