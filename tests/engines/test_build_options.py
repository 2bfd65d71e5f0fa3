"""The CMake variables of a build."""

from __future__ import annotations

from app.entities.engines import Backend, InstructionSet
from app.use_cases.engines.build_numbers import UNKNOWN_BUILD
from app.use_cases.engines.build_options import OPTIONS, build_options
from app.use_cases.engines.instruction_sets import instruction_options, instruction_sets

ZEN_4 = (
    *("avx2", "fma", "f16c", "bmi2"),
    *("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vbmi", "avx512_vnni"),
)


def test_a_cuda_build_has_code_for_the_cards_of_this_machine_alone():
    options = build_options("11434", Backend.CUDA, ("8.6", "9.0"))
    assert options["CMAKE_CUDA_ARCHITECTURES"] == "86-real;90-real"
    assert options["GGML_CUDA"] == "ON" and "GGML_VULKAN" not in options
    assert options["LLAMA_BUILD_NUMBER"] == "11434"
    assert options.items() >= OPTIONS.items()


def test_a_cpu_build_has_no_gpu_code_and_an_unknown_build_claims_no_number():
    options = build_options(UNKNOWN_BUILD, Backend.CPU)
    assert options == OPTIONS
    assert build_options(UNKNOWN_BUILD, Backend.VULKAN) == OPTIONS | {"GGML_VULKAN": "ON"}


def test_a_crashing_native_build_is_followed_by_one_without_amx_then_by_narrower_ones():
    native, avx512, avx2, baseline = InstructionSet
    assert instruction_sets("x86_64", ZEN_4) == (native, avx512, avx2, baseline)
    assert instruction_sets("x86_64", ZEN_4[:5]) == (native, avx2, baseline)
    assert instruction_sets("x86_64", ()) == (native, baseline)
    assert instruction_sets("aarch64", ("asimd",)) == (native, baseline)


def test_each_instruction_set_says_every_variable_so_that_none_of_the_set_before_remains():
    each = [instruction_options(chosen) for chosen in InstructionSet]
    assert len({frozenset(options) for options in each}) == 1
    native, avx512, avx2, baseline = each
    assert native["GGML_NATIVE"] == "ON" and "ON" not in baseline.values()
    assert (avx512["GGML_AVX512"], avx2["GGML_AVX512"], avx2["GGML_AVX2"]) == ("ON", "OFF", "ON")
