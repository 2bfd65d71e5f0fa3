"""Draft models, adapters and projectors: their files are read before a launch."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.errors import InvalidModelFile
from app.use_cases.estimate.companions import NO_COMPANIONS
from bench.estimate import shape_of
from bench.gpu.model_file import write_sparse_model
from bench.gpu.shapes import Shape
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


def test_the_head_that_a_model_drafts_with_is_the_first_that_fits_and_the_engine_knows(tmp_path: Path):
    names = ("eagle3-llama-3.1-8b", "dflash-qwen3-8b")
    for name in names:
        write_sparse_model(Shape(name, "Q4_K_M"), tmp_path / f"{name}.gguf")
    paths, files = [str(tmp_path / f"{name}.gguf") for name in (*names, "gone")], CompanionFiles()
    known = {"draft-eagle3", "draft-dflash"}.__contains__
    head = files.head(paths, shape_of("qwen3-8b", "Q4_K_M"), known)
    assert head is not None and (head.path, head.speculation) == (paths[1], "draft-dflash")
    assert files.head(paths, shape_of("qwen3-8b", "Q4_K_M"), {"draft-eagle3"}.__contains__) is None
    assert files.head(paths, shape_of("qwen2.5-7b", "Q4_K_M"), known) is None
