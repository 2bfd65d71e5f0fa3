"""With layers or the cache in RAM the gaps decide: replayed graphs need what llama.cpp (build 11549) says."""

import pytest

from app.use_cases.estimate.estimate import estimate_memory
from bench.estimate import shape_of
from bench.truth.table import MIB, Figures, Start
from bench.vram_truth import row_of

# Model, devices, arguments, and MiB of each device's compute buffer as llama.cpp says.
STARTS = [
    # The second layer's V does not fit beside its K any more: a mask lies where the first layer had its V.
    ("llama-3.2-3b", "2:900000", "-c 32768 -np 4 -nkvo", (170.01, 218.00)),
    # The sum takes the place of the residual, not of what is added to it.
    ("phi-4-mini", "1:900000", "-c 32768 -np 4 -ngl 16", (224.00,)),
    # Heads are rotated before they are quantized, which takes a tensor more.
    ("llama-3.2-3b", "1:900000", "-c 8307 -np 4 -ngl 20 -ctk q8_0 -ctv q8_0", (96.57,)),
    # A bias in RAM begins a split: positions are copied in with it, and not with the matrix.
    ("qwen-7b", "1:900000", "-c 8192 -np 1 -ngl 16", (232.0,)),
    # Every fourth layer has no RoPE, and a smaller gap is left.
    ("smollm3-3b", "1:900000", "-c 8192 -np 1 -ngl 18", (112.5,)),
    # CUDA's fusion computes a part of the shared expert before the last matrix of the others.
    ("exaone-moe-30b", "2:900000", "-c 8192 -np 1 -ngl 16", (254.004, 117.783)),
    # The router reads what attention reads, and layers without RoPE are rotated to be quantized all the same.
    (
        "smallthinker-21b-a3b",
        "2:900000",
        "-c 2048 -np 16 -ub 2048 -ctk q4_0 -ctv q4_0 -ngl 34 -ts 2,1 --cpu-moe",
        (423.516, 134.227),
    ),
    # Experts in RAM are computed on the first GPU, those of the other GPU's layers, too.
    ("x-llamamoe-a", "1:900000", "-c 16384 -np 1 -ub 1024 --n-cpu-moe 30", (193.778,)),
    ("x-llamamoe-a", "2:900000", "-c 16384 -np 1 -ub 1024 --n-cpu-moe 30", (193.778, 150.238)),
    # Without layers on a GPU an override moves nothing: 27 % of the buffer were missing.
    ("x-llamamoe-a", "2:900000", "-c 131072 -np 6 -ub 1024 -ngl 0 -ot exps=CPU", (237.342, 0)),
]


@pytest.mark.parametrize(("model", "devices", "args", "truth"), STARTS)
def test_copies_from_ram_are_allocated_as_llama_cpp_does(model, devices, args, truth):
    row = row_of(Start("", model, "Q4_K_M", devices, args), Figures(devices={"host": (0.0, 0.0, 0.0)}))
    found = estimate_memory(shape_of(model, "Q4_K_M"), row.options).devices
    assert [each.compute_bytes / MIB for each in found] == pytest.approx(truth, abs=0.02)


def test_each_value_of_a_transposed_cache_has_an_index_in_each_pipeline_stage():
    """llama-kv-cache.cpp, build_input_v_idxs: 64 bits for each value of V and token of the ubatch."""
    shape = shape_of("llama-3.1-8b", "Q4_K_M")
    start = Start("", "llama-3.1-8b", "Q4_K_M", "2:900000", "-c 4096 -np 1 -ub 512 -fa off")
    options = row_of(start, Figures(devices={"host": (0.0, 0.0, 0.0)})).options
    found = [each.compute_bytes / MIB for each in estimate_memory(shape, options).devices]
    assert found == pytest.approx((440.04, 400.02), abs=0.05)
