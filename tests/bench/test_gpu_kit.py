"""bench/gpu: its choices and its files."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from app.entities.launch import Task
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
from bench.gpu.table import first_sight, item_error, learned, overhead_bytes, summary, table, under_bytes
from tests.helpers.builders import GIB, MIB, replace
from workers.engine.binary import find_engine
from workers.engine_builds.stopping import CannotContinue, Deadline, OutOfTime
from workers.gguf.constants import TENSOR_TYPES
from workers.gguf.header import read_header

pytestmark = pytest.mark.integration

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
