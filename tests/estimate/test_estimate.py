"""Estimates compared with llama.cpp's own figures (bench/data/vram), and of models that have not been measured."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

from app.entities.gguf import GgufHeader
from app.entities.launch import ModelOptions, Task
from app.entities.memory import Confidence, Estimate
from app.use_cases.engines.source_packages import PINNED_VERSION
from app.use_cases.estimate.companions import Companions
from app.use_cases.estimate.estimate import FITTED_BUILD, estimate_memory, for_version
from app.use_cases.estimate.kv_cache import checkpoint_bytes
from app.use_cases.estimate.projector import projector
from app.use_cases.estimate.tensor_split import layer_ranges
from app.use_cases.model_shape.shape import model_shape
from bench.estimate import errors, shape_of
from bench.vram_truth import header, rows, rows_with_more


@pytest.fixture(scope="module")
def device_errors() -> list[dict[str, float]]:
    return [each for row in rows() for each in errors(row)]


def test_weights_and_context_match_llama_cpp_on_every_device_of_every_row(device_errors: list[dict[str, float]]):
    assert len(device_errors) == 3156
    assert max(abs(each["weights"]) for each in device_errors) < 0.0005
    assert max(abs(each["context"]) for each in device_errors) < 0.0005


def test_totals_stay_within_the_recorded_errors(device_errors: list[dict[str, float]]):
    totals = sorted(abs(each["total"]) for each in device_errors)
    assert statistics.median(totals) <= 0.001
    assert totals[int(0.9 * len(totals))] <= 0.01


def test_no_booking_is_too_small(device_errors: list[dict[str, float]]):
    """Run `python -m bench.margins` after a rule was changed or rows were added."""
    assert min(each["booked"] for each in device_errors) >= 0


def test_what_was_never_measured_has_low_confidence_there_and_a_margin():
    rwkv = shape_of("rwkv7-2.9b", "Q4_K_M")
    measured = estimate_memory(rwkv, ModelOptions(ctx_size=8192))
    assert (measured.confidence, measured.notes) != (Confidence.LOW, ())
    estimate = estimate_memory(rwkv, ModelOptions(ctx_size=8192, task=Task.EMBEDDING))
    assert estimate.confidence is Confidence.LOW
    assert estimate.notes == ("architecture 'rwkv7' has not been measured for embeddings",)
    first = estimate.devices[0]
    assert first.margin_bytes >= 0.1 * (first.weights_bytes + first.context_bytes + first.compute_bytes)


@pytest.mark.parametrize(("name", "share"), [("truth", 0.99), ("truth2", 0.97), ("held_out", 0.97)])
def test_nearly_all_rows_are_within_two_percent(name: str, share: float):
    totals = [abs(each["total"]) for row in rows((name,)) for each in errors(row)]
    assert sum(each <= 0.02 for each in totals) >= share * len(totals)


def test_estimates_called_exact_are_exact():
    estimates = [(row, estimate_memory(shape_of(row.shape, row.quant), row.options)) for row in rows()]
    exact = [row for row, estimate in estimates if estimate.confidence is Confidence.EXACT]
    assert len(exact) > 400
    for row in exact:
        assert abs(errors(row)[0]["total"]) <= 0.0005, row


@pytest.mark.parametrize("version", ["11549 (1a2b3c4)", "xllamacpp 2026.10.11549"])
def test_what_is_exact_is_so_for_the_build_that_was_measured(version: str):
    assert for_version(an_exact_estimate(), version) == an_exact_estimate()


@pytest.mark.parametrize("version", ["11550 (1a2b3c4)", "xllamacpp 2026.10.11434", "115490 (a)", "unknown"])
def test_for_another_build_what_is_exact_is_modelled(version: str):
    expected = replace(an_exact_estimate(), confidence=Confidence.MODELLED)
    assert for_version(an_exact_estimate(), version) == expected
    low = replace(expected, confidence=Confidence.LOW)
    assert for_version(low, version) == low


def test_the_engine_that_is_built_by_default_is_the_one_that_was_measured():
    assert PINNED_VERSION.endswith(f".{FITTED_BUILD}")


def an_exact_estimate() -> Estimate:
    estimates = (estimate_memory(shape_of(row.shape, row.quant), row.options) for row in rows())
    return next(estimate for estimate in estimates if estimate.confidence is Confidence.EXACT)


def test_companions_and_parts_in_ram_are_estimated_as_accurately():
    totals = []
    for row in rows_with_more():
        estimate = estimate_memory(shape_of(row.shape, row.quant), row.options, companions=row.companions)
        for device, (weights, context, compute) in zip(estimate.devices, row.devices, strict=True):
            assert device.weights_bytes == pytest.approx(weights, rel=0.0005, abs=2048), row
            assert device.context_bytes == pytest.approx(context, rel=0.0005, abs=2048), row
            ours = device.weights_bytes + device.context_bytes + device.compute_bytes
            totals.append(ours / (weights + context + compute) - 1)
        in_ram = estimate.host.weights_bytes, estimate.host.context_bytes
        assert in_ram == pytest.approx(row.host[:2], rel=0.0005, abs=8192), row
    assert len(totals) == 494
    assert sum(abs(each) <= 0.02 for each in totals) >= 0.97 * len(totals)
    assert min(totals) > -0.02


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        # 32 checkpoints x 4 slots x (1024 + 512 tokens) x (106,496 + 106,496 values) x 2 bytes
        ("gemma-3-27b", 79_872),
        # 32 x 4 x 75.375 MiB of recurrent state
        ("qwen3-next-80b-a3b", 9_648),
        ("qwen3-8b", 0),
    ],
)
def test_context_checkpoints_copy_windows_and_recurrent_states(name: str, mib: int):
    row = next(row for row in rows() if row.shape == name)
    assert checkpoint_bytes(shape_of(row.shape, row.quant), ModelOptions(ctx_size=32768)) == mib * 2**20


def test_one_gpu_with_f16_is_within_two_and_a_half_percent():
    plain = [row for row in rows() if row.options.task is Task.COMPLETION and row.options.flash_attn == "auto"]
    for row in plain:
        is_whole = row.options.n_gpu_layers == 999 and len(row.devices) == 1 and row.options.cache_type_k == "f16"
        if is_whole:
            assert abs(errors(row)[0]["total"]) < 0.025, row


def test_layers_are_split_where_float32_rounds_the_shares():
    # 0.3 is 0.300000012 in float32: layer 3 of 10 (0.3 as float32 too) is not below it and is placed on the second GPU.
    assert layer_ranges(9, 999, (3, 7)) == [range(3), range(3, 10)]
    assert layer_ranges(16, 8, (1, 1)) == [range(9, 13), range(13, 17)]  # 9 layers stay in RAM
    assert layer_ranges(16, 0, (1,)) == [range(17, 17)]


def test_without_gpu_layers_the_first_gpu_computes():
    """llama.cpp's own figures: 88.004 MiB on the first GPU, none on the second. We once estimated 0 on both."""
    options = ModelOptions(ctx_size=8192, parallel=1, n_gpu_layers=0, devices=2)
    first, second = estimate_memory(shape_of("llama-3.2-1b", "Q4_K_M"), options).devices
    assert first.compute_bytes > 0 and second.compute_bytes == 0


def test_an_unknown_architecture_has_low_confidence_and_a_margin():
    known = header("llama-3.1-8b", "Q4_K_M")
    metadata = {key.replace("llama.", "brand-new.", 1): value for key, value in known.metadata.items()}
    unknown = GgufHeader({**metadata, "general.architecture": "brand-new"}, known.lengths, known.tensors)
    estimate = estimate_memory(model_shape(unknown), ModelOptions(ctx_size=8192))
    assert estimate.confidence is Confidence.LOW and estimate.notes
    assert estimate.devices[0].margin_bytes > 0
    truth = estimate_memory(shape_of("llama-3.1-8b", "Q4_K_M"), ModelOptions(ctx_size=8192))
    # everything is found except the table of RoPE frequencies
    assert estimate.devices[0].total_bytes == pytest.approx(truth.devices[0].total_bytes, rel=0.001)


def test_invalid_metadata_never_raises(seed: int):
    chance = random.Random(seed)
    valid = header("qwen3-next-80b-a3b", "Q4_K_M")
    values = (0, 1, 2**63, 3.5, True, "text", (), (1, "x", None), tuple(range(5000)))
    for _ in range(2000):
        metadata = dict(valid.metadata)
        for key in chance.sample(sorted(metadata), 4):
            metadata[key] = chance.choice(values)
        metadata["general.architecture"] = chance.choice(
            ("qwen3next", "gemma4", "mamba2", "llama4", "what", "nemotron_h")
        )
        tensors = tuple(chance.sample(valid.tensors, chance.randrange(20)))
        options = ModelOptions(
            ctx_size=chance.choice((0, 1, 8192)), parallel=chance.choice((1, 3)), devices=chance.choice((0, 1, 3))
        )
        estimate = estimate_memory(model_shape(GgufHeader(metadata, valid.lengths, tensors)), options)
        assert estimate.booked_bytes >= 0


def test_experts_in_ram_leave_the_gpu():
    shape = shape_of("qwen3-30b-a3b", "Q4_K_M")
    whole = estimate_memory(shape, ModelOptions(ctx_size=8192, parallel=1))
    some = estimate_memory(shape, replace(ModelOptions(ctx_size=8192, parallel=1), n_cpu_moe=12))
    # bench/data/vram/extra_truth.csv: 13240.429 MiB on the device, 4450.922 MiB in RAM
    assert some.devices[0].weights_bytes / 1024**2 == pytest.approx(13240.429, abs=0.01)
    assert some.host.weights_bytes / 1024**2 == pytest.approx(4450.922, abs=0.01)
    assert whole.devices[0].weights_bytes > some.devices[0].weights_bytes


def test_on_the_cpu_everything_is_in_ram():
    """The needs of a draft model and a projector are added to RAM too."""
    options = ModelOptions(ctx_size=8192, devices=0, n_gpu_layers=0)
    alone = estimate_memory(shape_of("llama-3.1-8b", "Q4_K_M"), options)
    draft = estimate_memory(shape_of("llama-3.2-1b", "Q4_K_M"), options)
    vision = projector(header("mmproj-gemma-3-4b", "F16"))
    both = estimate_memory(
        shape_of("llama-3.1-8b", "Q4_K_M"), options, companions=Companions(shape_of("llama-3.2-1b", "Q4_K_M"), vision)
    )
    assert not both.devices
    graph_bytes = 121.25 * 1024**2  # extra_truth.csv, without offload: 931.750 MiB, of which 810.500 are weights
    rest = both.total_bytes - alone.total_bytes - draft.total_bytes
    assert rest == pytest.approx(vision.host_weights_bytes + graph_bytes, rel=0.001)


def test_an_output_that_the_cpu_repacks_is_held_beside_the_embedding_it_is_tied_to():
    """qwen2.5-0.5b with all matrices in Q4_0: the embedded engine projects 73 MiB and 264 MiB repacked."""
    told = header("qwen2.5-0.5b", "Q4_K_M")
    embedding = next(each for each in told.tensors if each.name == "token_embd.weight")

    def in_ram(type_: str, **options: Any) -> int:
        tensors = [replace(each, type=type_) if each is embedding else each for each in told.tensors]
        on_cpu = ModelOptions(ctx_size=4096, devices=0, n_gpu_layers=0, **options)
        return estimate_memory(model_shape(replace(told, tensors=tuple(tensors))), on_cpu).host.weights_bytes

    assert in_ram("Q4_0") == in_ram("Q8_0") + embedding.size_bytes
    assert in_ram("Q4_0", repack=False) == in_ram("Q8_0")


def test_companions_have_low_confidence_where_none_were_measured():
    options = ModelOptions(ctx_size=4096, speculation="ngram-simple", task=Task.EMBEDDING)
    estimate = estimate_memory(shape_of("qwen3-embedding-8b", "Q4_K_M"), options)
    assert estimate.confidence is Confidence.LOW
    assert "companion files and drafting have not been measured for embeddings" in estimate.notes


def test_notes_name_what_has_not_been_measured():
    shape = shape_of("llama-3.1-8b", "Q4_K_M")
    strange = replace(projector(header("mmproj-gemma-3-4b", "F16")), kind="new")
    estimate = estimate_memory(shape, ModelOptions(ctx_size=8192), companions=Companions(projector=strange))
    assert estimate.confidence is Confidence.LOW
    assert estimate.notes == ("projectors of type 'new' have not been measured",)


@pytest.mark.parametrize(
    ("model", "options", "mib"),
    [
        ("qwen2.5-0.5b", ModelOptions(1024, 1, False), 38.86),
        ("llama-3.2-1b", ModelOptions(1024, 1, False), 69.50),
        ("llama-3.2-1b", ModelOptions(2048, 4, False, 2048, 256, "q8_0", "q8_0"), 36.22),
        ("smollm2-135m", ModelOptions(1024, 4, True, 2048, 128, flash_attn="off"), 7.56),
    ],
)
def test_compute_buffers_on_the_cpu_match_real_loads(model: str, options: ModelOptions, mib: float):
    """Compute and output buffers of llama-server b11434: bench/results/cpu-rehearsal-*."""
    on_cpu = replace(options, devices=0, n_gpu_layers=0)
    host = estimate_memory(shape_of(model, "Q4_K_M"), on_cpu).host
    assert host.compute_bytes / 1024**2 == pytest.approx(mib, abs=0.1)


def test_tensors_split_over_two_gpus_are_as_llama_cpp_reserves_them():
    """gemma-3-12b Q4_K_M, -c 16384 -sm tensor: the output matrix, which is the embedding, is on both GPUs."""
    shape = model_shape(header("gemma-3-12b", "Q4_K_M"))
    options = ModelOptions(ctx_size=16384, devices=2, split_mode="tensor", tensor_split=(3.0, 1.0), flash_attn="on")
    for device, truth_mib in zip(estimate_memory(shape, options, 0).devices, (7403.5, 3088.6), strict=True):
        assert abs(device.total_bytes / 1024**2 - truth_mib) < 0.01 * truth_mib
        assert device.booked_bytes > truth_mib * 1024**2
