"""What bench.truth makes of llama.cpp's figures. tests/extra/test_truth_tool.py builds the tool and asks it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.use_cases.engines.source_packages import PINNED_VERSION
from app.use_cases.estimate.estimate import FITTED_BUILD
from bench.truth.architectures import architectures_in, list_changes
from bench.truth.changes import change_lines, sample, to_record
from bench.truth.cuda_functions import cuda_functions
from bench.truth.draw import drawn_starts, is_model
from bench.truth.model_header import compact, mixed
from bench.truth.table import Figures, Start, read_all, read_by_architecture, read_rows, recorded, write_rows
from bench.vram_truth import header
from workers.engine_builds.stopping import CannotContinue

PLAIN = Figures({"CUDA0": (100.0, 20.0, 10.0), "host": (5.0, 0.0, 1.0)})


def test_a_table_holds_what_was_measured(tmp_path: Path):
    start = Start("mine", "qwen3-8b", "Q4_K_M", "2:24576,12288", "-c 8192 -ts 1,2 --mmproj p.F16.gguf -fit off")
    devices = {"CUDA0": (1.5, 0.25, 10.0), "CUDA1": (3.0, 0.5, 12.125), "host": (205.488, 0.0, 18.018)}
    whole = Figures(devices, {"CUDA1": (1.0, 2.0, 3.0)}, {"CUDA0": 4.5, "CPU": 9.188}, {"CUDA0": 12.0, "CUDA1": 9.5})
    rows = [(start, whole), (start, Figures(error="failed to create llama_context, from model"))]
    write_rows(tmp_path / "rows.csv", rows)
    assert list(read_rows(tmp_path / "rows.csv")) == rows


def test_every_recorded_row_is_in_the_table_of_its_architecture():
    for name, rows in read_by_architecture().items():
        assert {header(start.shape, start.quant).architecture for start, _ in rows} == {name}


def test_what_changed_is_a_line_for_each_architecture_and_item():
    more = Figures({"CUDA0": (100.0, 20.0, 10.31), "host": (5.0, 0.0, 1.0)})
    gone = Figures(error="no kernel")
    rows = [("qwen35moe", PLAIN, more), ("qwen35moe", PLAIN, PLAIN), ("llama", PLAIN, PLAIN), ("bert", PLAIN, gone)]
    assert list(change_lines(rows, "11549")) == [
        "bert: does not start any more since 11549, 1 of 1 rows",
        "qwen35moe: compute +3.1 % (+0.3 MiB) since 11549, 1 of 2 rows",
    ]


def test_a_change_is_that_of_the_device_and_row_where_it_is_largest():
    two = Figures({"CUDA0": (0.0, 0.0, 100.0), "CUDA1": (0.0, 0.0, 100.0)}, {"CUDA1": (8.0, 1.0, 1.0)})
    now = Figures({"CUDA0": (0.0, 0.0, 101.0), "CUDA1": (0.0, 0.0, 90.0)}, {"CUDA1": (8.0, 1.5, 1.0)})
    assert list(change_lines([("a", two, now)], "7")) == [
        "a: compute -10.0 % (-10.0 MiB) since 7, 1 of 1 rows",
        "a: draft context +50.0 % (+0.5 MiB) since 7, 1 of 1 rows",
    ]


def test_the_only_device_of_a_start_is_compared_whatever_its_number():
    second = Figures({"CUDA1": PLAIN.devices["CUDA0"], "host": PLAIN.devices["host"]})
    assert not list(change_lines([("smollm3", PLAIN, second)], "11549"))


def test_what_the_table_rounds_away_is_no_change():
    close = Figures({"CUDA0": (100.04, 20.0, 10.004), "host": (5.0, 0.0, 1.0)})
    assert not list(change_lines([("llama", PLAIN, close)], "11549"))
    assert to_record(PLAIN, close) == PLAIN
    more = Figures({"CUDA0": (100.0, 20.0, 10.31), "host": (5.0, 0.0, 1.0)})
    assert to_record(PLAIN, more) == more


def test_a_sample_is_from_all_over_a_table():
    rows = [(Start("", str(number), "", "1:1", ""), PLAIN) for number in range(12)]
    assert [start.shape for start, _ in sample(rows, 3)] == ["2", "6", "10"]
    assert len(sample(rows[:2], 3)) == 2


def test_the_same_seed_draws_the_same_starts_and_no_projector():
    starts = drawn_starts("blind", 7, 60)
    assert starts == drawn_starts("blind", 7, 60) != drawn_starts("blind", 8, 60)
    assert len({start.shape for start in starts}) == 60
    assert all(is_model(header(start.shape, start.quant)) for start in starts)
    assert {"1", "2"} <= {start.devices[0] for start in starts}


def test_a_drawn_start_has_not_been_recorded():
    known = {(start.shape, start.quant, start.devices, start.args) for start, _ in read_all()}
    drawn = {(start.shape, start.quant, start.devices, start.args) for start in drawn_starts("blind", 7, 60)}
    assert len(drawn & known) < 3


def test_the_architectures_are_those_of_the_table_in_the_source(tmp_path: Path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/llama-arch.cpp").write_text(
        'const std::map<llm_arch, const char *> LLM_ARCH_NAMES = {\n    { LLM_ARCH_CLIP,  "clip" }, // dummy\n'
        '    { LLM_ARCH_LLAMA, "llama" },\n    { LLM_ARCH_UNKNOWN, "(unknown)" },\n};\n    { LLM_ARCH_NO, "no" },\n'
    )
    assert architectures_in(tmp_path) == ("llama",)
    assert list(list_changes(["llama", "gptj"], ["llama", "b", "a"])) == [
        "new architectures: a, b",
        "architectures that are gone: gptj",
    ]


def test_a_source_whose_functions_have_other_names_is_refused_by_name(tmp_path: Path):
    with pytest.raises(CannotContinue, match=r"topk-moe\.cuh .* begins with 'struct ggml_cuda_topk_moe_args'"):
        cuda_functions(tmp_path)


def test_the_rows_are_those_of_the_engine_that_is_installed_and_fitted():
    """After raising xllamacpp: `python -m bench.truth changes --record`, then the estimates, then FITTED_BUILD."""
    constraints = Path(__file__).parents[2] / "constraints.txt"
    (pinned,) = re.findall(r"^xllamacpp==(\S+)$", constraints.read_text(), re.MULTILINE)
    assert (recorded().version, recorded().build) == (pinned, FITTED_BUILD)
    assert pinned == PINNED_VERSION


def test_a_header_has_equal_tensors_of_several_blocks_once():
    requested = [("token_embd.weight", (512, 99)), *((f"blk.{il}.attn_k.weight", (512, 64)) for il in (0, 1, 2, 5))]
    requested += [("enc.blk.0.ffn_norm.weight", (512,)), ("output.weight", (500, 99))]
    assert compact(mixed(requested)) == [
        ["token_embd.weight", [512, 99], "Q4_K"],
        ["blk.{}.attn_k.weight", [512, 64], "Q4_K", "0-2,5"],
        ["enc.blk.{}.ffn_norm.weight", [512], "F32", "0"],
        ["output.weight", [500, 99], "F16"],
    ]


def test_half_of_the_finer_tensors_have_more_bits_and_short_rows_smaller_blocks():
    requested = [(f"blk.{il}.attn_v.weight", (320, 64)) for il in range(2)]
    assert [type_ for _, _, type_ in mixed(requested)] == ["Q5_0", "Q8_0"]
