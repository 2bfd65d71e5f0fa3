"""Draft models, adapters and projectors: their files are read before a launch."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.errors import InvalidModelFile
from app.use_cases.estimate.companions import NO_COMPANIONS
from tests.helpers.builders import a_gguf
from workers.catalog.companion_files import CompanionFiles


def test_a_draft_model_is_read(tmp_path: Path):
    draft = a_gguf(tmp_path / "draft.gguf")
    companions = CompanionFiles().read(LaunchSettings(args=("-md", str(draft))))
    assert companions.draft is not None and companions.draft.hparams.architecture


def test_a_broken_projector_is_the_models_problem(tmp_path: Path):
    broken = tmp_path / "eyes.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(InvalidModelFile, match=r"eyes\.gguf"):
        CompanionFiles().read(LaunchSettings(mmproj=str(broken)))


def test_an_unreadable_file_in_args_is_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        companions = CompanionFiles().read(LaunchSettings(args=("--lora", str(tmp_path / "none.gguf"))))
    assert companions == NO_COMPANIONS
    assert "none.gguf" in caplog.text
