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
