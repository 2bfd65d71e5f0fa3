"""The estimate against llama.cpp's own figures (bench/data/vram), and for models that nobody has measured."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from app.entities.gguf import GgufHeader
from app.entities.launch import LaunchSettings, MemoryOptions, Task
from app.entities.memory import Confidence
from app.use_cases.estimate import estimate_memory
from app.use_cases.memory_options import memory_options
from app.use_cases.model_shape import model_shape
from app.use_cases.tensor_split import layer_ranges
from bench.estimate import errors, shape_of
from bench.vram_truth import header, rows


@pytest.fixture(scope="module")
def off() -> list[dict[str, float]]:
    return [each for row in rows() for each in errors(row)]


def test_weights_and_context_are_llama_cpps_on_every_device_of_every_row(off: list[dict[str, float]]):
    assert len(off) == 2535
    assert max(abs(each["weights"]) for each in off) < 0.0005
    assert max(abs(each["context"]) for each in off) < 0.0005


def test_totals_are_within_what_the_bench_has_recorded(off: list[dict[str, float]]):
    totals = sorted(abs(each["total"]) for each in off)
    assert statistics.median(totals) <= 0.001
    assert totals[int(0.9 * len(totals))] <= 0.01


def test_nothing_is_booked_too_small_by_more_than_two_percent(off: list[dict[str, float]]):
    assert min(each["booked"] for each in off) >= -0.0205


def test_nearly_all_rows_are_within_two_percent(off: list[dict[str, float]]):
    assert sum(abs(each["total"]) <= 0.02 for each in off) >= 0.97 * len(off)


def test_one_gpu_with_f16_is_within_two_and_a_half_percent():
    plain = [row for row in rows() if row.options.task is Task.COMPLETION and row.options.flash_attn == "auto"]
    for row in plain:
        is_whole = row.options.n_gpu_layers == 999 and len(row.devices) == 1 and row.options.cache_type_k == "f16"
        if is_whole:
            assert abs(errors(row)[0]["total"]) < 0.025, row


def test_shares_fall_where_float32_rounds_them():
    # 0.3 is 0.300000012 in float32: layer 3 of 10 (0.3 as float32 too) is not below it and goes to the second GPU.
    assert layer_ranges(9, 999, (3, 7)) == [range(3), range(3, 10)]
    assert layer_ranges(16, 8, (1, 1)) == [range(9, 13), range(13, 17)]  # 9 layers stay in RAM
    assert layer_ranges(16, 0, (1,)) == [range(17, 17)]


def test_without_layers_on_gpus_the_first_of_them_computes():
    """llama.cpp's own figures: 88.004 MiB on the first, nothing on the second; it was 0 on both."""
    options = MemoryOptions(ctx_size=8192, parallel=1, n_gpu_layers=0, devices=2)
    first, second = estimate_memory(shape_of("llama-3.2-1b", "Q4_K_M"), options).devices
    assert first.compute_bytes > 0 and second.compute_bytes == 0


def test_an_unknown_architecture_has_low_confidence_and_a_margin():
    known = header("llama-3.1-8b", "Q4_K_M")
    metadata = {key.replace("llama.", "brand-new.", 1): value for key, value in known.metadata.items()}
    strange = GgufHeader({**metadata, "general.architecture": "brand-new"}, known.lengths, known.tensors)
    estimate = estimate_memory(model_shape(strange), MemoryOptions(ctx_size=8192))
    assert estimate.confidence is Confidence.LOW and estimate.notes
    assert estimate.devices[0].margin_bytes > 0
    truth = estimate_memory(shape_of("llama-3.1-8b", "Q4_K_M"), MemoryOptions(ctx_size=8192))
    # but for the table of RoPE frequencies everything is found all the same
    assert estimate.devices[0].total_bytes == pytest.approx(truth.devices[0].total_bytes, rel=0.001)


def test_nonsense_in_the_metadata_never_raises():
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    said = header("qwen3-next-80b-a3b", "Q4_K_M")
    values = (0, 1, 2**63, 3.5, True, "text", (), (1, "x", None), tuple(range(5000)))
    for _ in range(2000):
        metadata = dict(said.metadata)
        for key in chance.sample(sorted(metadata), 4):
            metadata[key] = chance.choice(values)
        metadata["general.architecture"] = chance.choice(
            ("qwen3next", "gemma4", "mamba2", "llama4", "what", "nemotron_h")
        )
        tensors = tuple(chance.sample(said.tensors, chance.randrange(20)))
        options = MemoryOptions(
            ctx_size=chance.choice((0, 1, 8192)), parallel=chance.choice((1, 3)), devices=chance.choice((0, 1, 3))
        )
        estimate = estimate_memory(model_shape(GgufHeader(metadata, said.lengths, tensors)), options)
        assert estimate.booked_bytes >= 0


def test_options_in_args_count():
    launch = LaunchSettings(args=("--swa-full", "-ncmoe", "3", "--main-gpu=1", "--embeddings", "-ts", "x"))
    options = memory_options(launch, devices=2)
    assert (options.swa_full, options.n_cpu_moe, options.main_gpu, options.task) == (True, 3, 1, Task.EMBEDDING)
    assert options.tensor_split == ()  # what cannot be read is for llama-server to refuse


def test_experts_in_ram_leave_the_gpu():
    shape = shape_of("qwen3-30b-a3b", "Q4_K_M")
    whole = estimate_memory(shape, MemoryOptions(ctx_size=8192, parallel=1))
    some = estimate_memory(shape, replace(MemoryOptions(ctx_size=8192, parallel=1), n_cpu_moe=12))
    # bench/data/vram/extra_truth.csv: 13240.429 MiB on the device, 4450.922 MiB in RAM
    assert some.devices[0].weights_bytes / 1024**2 == pytest.approx(13240.429, abs=0.01)
    assert some.host.weights_bytes / 1024**2 == pytest.approx(4450.922, abs=0.01)
    assert whole.devices[0].weights_bytes > some.devices[0].weights_bytes
