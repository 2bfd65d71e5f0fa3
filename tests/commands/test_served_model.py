"""`serve --model`: what it makes of its argument, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.commands.downloads import served_model
from app.commands.downloads.served_model import served_model_settings
from tests.helpers.builders import a_gguf

CACHED = "org/tiny-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMA_SMART_PROXY_CATALOG__HUGGING_FACE__CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--org--tiny-GGUF" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    a_gguf(snapshot / "tiny-Q4_K_M.gguf")


def fails_to_pull(model: str) -> str:
    raise AssertionError(f"{model} is downloaded")


def test_a_file_is_served_under_its_name(tmp_path: Path):
    file = a_gguf(tmp_path / "mine.gguf")
    found = served_model_settings(str(file))
    assert json.loads(found["MODELS"]) == {"mine": {"path": str(file)}}
    assert found["CATALOG__DEFAULT_MODEL"] == "mine"


@pytest.mark.parametrize(
    "name", ["org/tiny-GGUF", CACHED, "hf.co/org/tiny-GGUF:q4_k_m", "org/tiny-GGUF/tiny-Q4_K_M.gguf"]
)
def test_a_model_that_is_here_is_not_fetched(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served_model, "_downloaded", fails_to_pull)
    assert served_model_settings(name) == {"MODELS": json.dumps({CACHED: {}}), "CATALOG__DEFAULT_MODEL": CACHED}


def test_any_other_name_is_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served_model, "_downloaded", lambda model: f"{model}:Q8_0")
    assert served_model_settings("org/other-GGUF")["CATALOG__DEFAULT_MODEL"] == "org/other-GGUF:Q8_0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nosuch", "no such file or model; 'nosuch' is not a name of a Hugging Face repository"),
        ("models/x.gguf", "models/x.gguf: no such file"),
        ("/nowhere/x.gguf", "/nowhere/x.gguf: no such file\n"),
        ("./x", "./x: no such file\n"),
    ],
)
def test_what_is_neither_file_nor_name_is_wrong_use(name: str, text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        served_model_settings(name)
    assert (end.value.code, text in capsys.readouterr().err) == (2, True)
