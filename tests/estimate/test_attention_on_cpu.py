"""Flash attention of heads CUDA has no kernel for: on the CPU (attention_on_cpu.py). Figures: llama.cpp b11549."""

from __future__ import annotations

import pytest

from app.entities.launch import ALL_LAYERS, ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from bench.estimate import shape_of

MIB = 1024**2
STABLELM = shape_of("stablelm-2-12b", "Q4_K_M")  # heads of 160 values


def compute_mib(n_gpu_layers: int = ALL_LAYERS, devices: int = 2, flash_attn: str = "auto") -> list[float]:
    cache = "f16" if flash_attn == "on" else "q8_0"
    options = ModelOptions(
        ctx_size=4096,
        parallel=1,
        devices=devices,
        n_gpu_layers=n_gpu_layers,
        flash_attn=flash_attn,
        cache_type_k=cache,
        cache_type_v=cache,
    )
    return [each.compute_bytes / MIB for each in estimate_memory(STABLELM, options).devices]


@pytest.mark.parametrize("flash_attn", ["auto", "on"])
def test_a_pipeline_keeps_the_attention_of_every_layer_that_comes_back_from_the_cpu(flash_attn: str):
    # A layer's 3 x 27 + 4 x 10 MiB; 11 and 6 embeddings; four results of 10 MiB for each of the 21 and 19 layers.
    # Measured: 1,071 and 941 MiB, with masks and the cache on neither GPU. They were estimated as 257 and 207.
    expected = [3 * 27 + 40 + 110 + 4 * 10 * 21, 3 * 27 + 40 + 60 + 4 * 10 * 19]
    assert compute_mib(flash_attn=flash_attn) == pytest.approx(expected, abs=2)


def test_without_a_pipeline_only_the_layer_counts():
    assert compute_mib(devices=1) == pytest.approx([121], abs=1)  # measured
    # Of the layers in RAM: the largest weight of 55 MiB is copied in, beside its input of 27 and 5 embeddings of 10.
    assert compute_mib(n_gpu_layers=20) == pytest.approx([132, 111], abs=1)  # measured
