"""The engines in the cache directory, as they are read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from app.entities.engines import Backend, InstalledEngine, InstructionSet
from workers.engine.binary import find_engine
from workers.engine.installed_engines import chosen_engine, described, engines_folder, installed_engines
from workers.engine.probe_process import EngineNotFound
from workers.engine_builds.engine_store import choose_engine


def an_engine(cache: Path, name: str = "cuda-11549", version: str = "11549") -> InstalledEngine:
    """Written as `engine install` does."""
    binary = engines_folder(cache) / name / "bin" / "llama-server"
    binary.parent.mkdir(parents=True)
    binary.touch(0o755)
    engine = InstalledEngine(
        name, version, Backend.CUDA, ("8.6", "8.9"), InstructionSet.AVX2, "x.tar.gz", 3, str(binary)
    )
    (binary.parent.parent / "engine.json").write_text(json.dumps(described(engine)))
    return engine


def test_engines_are_read_as_they_were_written_the_newest_first(tmp_path: Path):
    old, new = an_engine(tmp_path, "cuda-9999", "9999"), an_engine(tmp_path)
    assert installed_engines(tmp_path) == [new, old]
    assert installed_engines(tmp_path / "nothing") == []
    unknown = an_engine(tmp_path, "cuda-x", "9" * 5000)
    assert installed_engines(tmp_path) == [new, old, unknown]


HUGE = """{"version": "1", "backend": "cpu", "architectures": [], "instruction_set": "native", "source": "",
"size_bytes": 1e999}"""


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"version": "1", "backend": "rocm"}', "\xff", "[" * 100_000, HUGE]
)
def test_a_folder_that_no_build_completed_is_no_engine(tmp_path: Path, text: str):
    good, bad = an_engine(tmp_path), an_engine(tmp_path, "cpu-1")
    (Path(bad.binary).parents[1] / "engine.json").write_text(text, encoding="latin-1")
    an_engine(tmp_path, ".new")
    Path(an_engine(tmp_path, "cpu-2").binary).unlink()
    piped = Path(an_engine(tmp_path, "cpu-3").binary).parents[1] / "engine.json"
    piped.unlink()
    os.mkfifo(piped)
    assert installed_engines(tmp_path) == [good]


def test_what_engine_use_chose_is_one_line(tmp_path: Path):
    assert chosen_engine(tmp_path) == ""
    an_engine(tmp_path)
    (engines_folder(tmp_path) / "in-use").write_text("cuda-11549\n")
    assert chosen_engine(tmp_path) == "cuda-11549"


def test_a_pipe_in_the_place_of_the_choice_is_an_error_that_says_what_to_do(tmp_path: Path):
    """Every start waited for somebody to write into it."""
    an_engine(tmp_path)
    os.mkfifo(pipe := engines_folder(tmp_path) / "in-use")
    with pytest.raises(EngineNotFound, match=re.escape(f"the engine {pipe} was chosen")) as raised:
        find_engine(cache=tmp_path)
    assert "engine use auto" in str(raised.value)
    choose_engine(tmp_path, "")
    assert chosen_engine(tmp_path) == ""
