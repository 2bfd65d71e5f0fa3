"""The tool of bench.truth, built for the installed engine: what it says is what was recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.truth.__main__ import main
from bench.truth.architectures import architectures_in
from bench.truth.changes import changes
from bench.truth.measure import Bench
from bench.truth.model_header import built_library, requested_tensors
from bench.truth.table import Figures, Start, read_all, recorded
from bench.truth.tool import built_tool, engine_source
from bench.vram_truth import header
from workers.engine_builds.stopping import CannotContinue

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler"),
]
# One of each kind of start, on models whose files are written in a second.
SETS = ("truth", "truth2", "held_out", "truth3", "draft", "lora", "mmproj", "mtp", "n-cpu-moe", "nkvo", "ot", "ngram")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    try:
        return Bench(built_tool(), tmp_path_factory.mktemp("models"))
    except CannotContinue as error:
        if "index" in str(error):
            pytest.skip(f"no source package: {error}")
        raise


def test_the_recorded_rows_are_what_the_engine_says(bench: Bench):
    every = list(read_all())
    some = [row for name in SETS for row in [each for each in every if each[0].set == name][::40]]
    said = bench.all_figures(start for start, _ in some)
    differ = {
        start: found
        for (start, before), (_, now) in zip(some, said, strict=True)
        if (found := list(changes(before, now)))
    }
    assert len(some) > 50
    assert differ == {}


def test_a_start_that_the_engine_refuses_says_why(bench: Bench):
    start = Start("", "llama-3.2-1b", "Q4_K_M", "1:900000", "-c 4096 -np 1 -ctv q8_0 -fa off -fit off")
    assert bench.figures(start).error == "failed to create llama_context from model"


def test_tensor_parallelism_halves_weights_and_cache(bench: Bench):
    start = Start("", "llama-3.1-8b", "Q4_K_M", "2:24576", "-c 8192 -np 1 -ub 512 -fa on -sm tensor -fit off")
    devices = bench.figures(start).devices
    # the norms are on both
    weights, context, _ = devices["CUDA0"]
    assert devices["CUDA1"] == devices["CUDA0"]
    assert weights == pytest.approx(4403.492 / 2, rel=0.001)
    assert context == 1024 / 2


def test_the_recorded_architectures_are_the_engines(bench: Bench):
    assert recorded().architectures == architectures_in(engine_source(None).folder)


def test_an_altered_row_is_a_change(bench: Bench):
    start, before = next(row for row in read_all() if row[0].set == "truth")
    weights, context, compute = before.devices["CUDA0"]
    altered = Figures({**before.devices, "CUDA0": (weights, context, compute / 1.031)})
    (change,) = changes(altered, bench.figures(start))
    assert (change.item, round(change.share, 3)) == ("compute", 0.031)


def test_the_command_prints_a_row(bench: Bench, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["row", "llama-3.2-1b", "Q4_K_M", "--devices", "2:24576,12288", "--", "-c", "8192", "-np", "1"]
    assert main(arguments) == 0
    assert '"CUDA1"' in capfd.readouterr().out


@pytest.mark.parametrize(
    ("shape", "optional"), [("gpt2-124m", ""), ("qwen-7b", "^output"), ("deepseek-v4-flash", "probs_b")]
)
def test_a_header_is_made_from_metadata_alone(shape: str, optional: str, tmp_path: Path, bench: Bench):
    known = header(shape, "Q4_K_M")
    metadata = {key: list(value) if isinstance(value, tuple) else value for key, value in known.metadata.items()}
    requested = requested_tensors(metadata, optional, built_library(None, tmp_path))
    assert sorted(requested) == sorted((tensor.name, tensor.shape) for tensor in known.tensors)


def test_a_key_that_is_missing_is_named(tmp_path: Path, bench: Bench):
    with pytest.raises(CannotContinue, match=r"gpt2\.context_length"):
        requested_tensors({"general.architecture": "gpt2"}, "", built_library(None, tmp_path))
