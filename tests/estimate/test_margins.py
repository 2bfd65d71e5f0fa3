"""What is booked on top of an estimate, by architecture and kind of start (bench/margins.py writes the table)."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, MeasuredError
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.families import Agreement, MeasuredSettings, StartKind, agreement, kinds
from app.use_cases.model_shape.shape import ModelShape
from bench.estimate import shape_of
from bench.margins import Comparison, module, table
from bench.truth.table import read_all
from bench.vram_truth import ON_CPU, Row, pairs, row_of, rows

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
    return max(sum(truth) - each.booked_bytes for each, truth in pairs(estimate, row))


def test_starts_on_the_cpu_are_compared_with_what_the_engine_takes_in_ram():
    recorded = list(rows(ON_CPU))
    errors = [
        abs(1 - _total(estimate_memory(_shape(row), row.options, 0, row.companions).host) / sum(row.host))
        for row in recorded
    ]
    assert len(errors) > 150 and sum(error <= 0.02 for error in errors) > 0.95 * len(errors)
    measured = estimate_memory(shape_of("qwen3-8b", "Q4_K_M"), ModelOptions(devices=0, ctx_size=8192))
    assert measured.confidence is Confidence.MODELLED and measured.measured_error
    assert measured.host.margin_bytes >= 0.005 * _total(measured.host)
    unmeasured = estimate_memory(shape_of("plm-1.8b", "Q4_K_M"), ModelOptions(devices=0, ctx_size=8192))
    assert unmeasured.confidence is Confidence.LOW


def _shape(row: Row) -> ModelShape:
    return shape_of(row.shape, row.quant)


def _total(memory: DeviceMemory) -> int:
    return memory.weights_bytes + memory.context_bytes + memory.compute_bytes


def test_no_recorded_start_that_is_exact_is_off():
    recorded = [row_of(start, figures) for start, figures in read_all() if not figures.error]
    off = [
        abs(sum(truth) - each.total_bytes) / sum(truth)
        for row in recorded
        for estimate in [estimate_memory(shape_of(row.shape, row.quant), row.options, 0, row.companions)]
        if estimate.confidence is Confidence.EXACT
        for truth, each in zip(row.devices, estimate.devices, strict=True)
    ]
    assert len(off) > 500 and max(off) < 0.0011


def test_exact_asks_for_many_rows_several_ubatch_sizes_and_settings_between_theirs():
    """gemma-4-e4b with a ubatch of 128 was off by 0.22 %, and gemma-3-270m with 16 slots by 0.75 %."""
    settings = MeasuredSettings(ubatches=3, smallest_ubatch=256, largest_ubatch=2048, most_slots=8)
    agreement = Agreement(8, 0.0002, 0.0, 0.0, settings)
    assert agreement.is_exact and settings.include(512, 8)
    assert not settings.include(128, 1) and not settings.include(512, 16)
    assert not replace(agreement, rows=7).is_exact
    assert not replace(agreement, error=0.0003).is_exact
    assert not replace(agreement, settings=replace(settings, ubatches=2)).is_exact


def test_an_estimate_says_how_the_rows_of_its_kind_agreed():
    """The best description of the start counts: that of its quantized cache, not of its place."""
    split = ModelOptions(ctx_size=4096, devices=2, cache_type_k="q8_0", cache_type_v="q8_0")
    estimate = estimate_memory(shape_of("qwen3-8b", "Q4_K_M"), split)
    expected = agreement("qwen3", kinds(split, 36))
    assert expected and estimate.confidence is Confidence.MODELLED
    assert estimate.measured_error == MeasuredError(expected.rows, expected.error)
    assert expected == agreement("qwen3", (StartKind.QUANTIZED,)) != agreement("qwen3", (StartKind.SEVERAL_GPUS,))


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
    assert kinds(ModelOptions(devices=0), 32) == (StartKind.CPU,)


def test_the_cheapest_shares_that_cover_every_row_are_written_down():
    # 20 MiB are missing of 100 MiB of compute, in 10 GiB: 22 % of compute with the reserve of a tenth, not 0.25 % of
    # the total, which is 26 MiB. Where nothing is missing nothing is booked.
    short = Comparison("qwen3", StartKind.PARTIAL, 10240 * MIB, 100 * MIB, 20 * MIB, 20 / 10260, 512, 4)
    enough = Comparison("qwen3", StartKind.ONE_GPU, 10240 * MIB, 100 * MIB, 0, 0, 512, 4)
    lines = dict(line.split(" ", 1) for line in table([short, enough]).split("\n"))
    assert lines["qwen3"] == "one:1:0:0:0:1:512:512:4 partial:1:0.195:0:22:1:512:512:4"
    assert f'"""\\\n{table([short])}"""' in module(table([short]))
