"""What is booked on top of an estimate, by architecture and kind of start (bench/margins.py writes the table)."""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.families import StartKind, kinds
from bench.estimate import shape_of
from bench.margins import Comparison, module, table
from bench.truth.table import read_all
from bench.vram_truth import Row, row_of

TINY_BYTES = 4096  # the truth is printed to a thousandth of a MiB
MIB = 1024**2


def test_no_recorded_start_is_booked_under():
    """After a rule was changed or rows were added: python -m bench.margins."""
    recorded = [row_of(start, figures) for start, figures in read_all() if not figures.error]
    warm = [row for row in recorded if "--no-warmup" not in row.args]
    assert len(warm) > 2900
    assert [row for row in warm if _missing(row) > TINY_BYTES] == []


def _missing(row: Row) -> float:
    estimate = estimate_memory(shape_of(row.shape, row.quant), row.options, 0, row.companions)
    return max(sum(truth) - each.booked_bytes for truth, each in zip(row.devices, estimate.devices, strict=True))


def test_a_start_is_of_the_kinds_of_its_placement_and_of_its_attention():
    assert kinds(ModelOptions(), 32) == (StartKind.ONE_GPU,)
    quantized = ModelOptions(cache_type_k="q8_0", cache_type_v="q8_0")
    assert kinds(quantized, 32) == (StartKind.ONE_QUANTIZED,)
    split = ModelOptions(cache_type_k="q8_0", cache_type_v="q8_0", devices=2)
    assert kinds(split, 32) == (StartKind.SEVERAL_GPUS, StartKind.QUANTIZED)
    assert kinds(ModelOptions(n_gpu_layers=32, flash_attn="off"), 32) == (
        StartKind.PARTIAL,
        StartKind.NO_FLASH_ATTENTION,
    )
    assert kinds(ModelOptions(n_cpu_moe=4, devices=2), 32) == (StartKind.IN_RAM,)
    assert kinds(ModelOptions(devices=0), 32) == ()


def test_the_cheapest_shares_that_cover_every_row_are_written_down():
    # 20 MiB are missing of 100 MiB of compute, in 10 GiB: 22 % of compute with the reserve of a tenth, not 0.25 % of
    # the total, which is 26 MiB. Where nothing is missing nothing is booked.
    short = Comparison("qwen3", StartKind.PARTIAL, 10240 * MIB, 100 * MIB, 20 * MIB)
    enough = Comparison("qwen3", StartKind.ONE_GPU, 10240 * MIB, 100 * MIB, 0)
    lines = dict(line.split(" ", 1) for line in table([short, enough]).split("\n"))
    assert lines["qwen3"] == "one:1:0:0:0 partial:1:0.195:0:22"
    assert f'"""\\\n{table([short])}"""' in module(table([short]))
