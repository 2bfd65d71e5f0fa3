"""The instruction sets to build an engine with: all that the CPU has, then narrower ones if that build crashes.

A build with -march=native may use what a virtual machine announces and cannot run: one with AMX died with SIGSEGV in
the warm-up of a Q4_K_M model, and the same source without AMX did not (llama.cpp b11549).
"""

from __future__ import annotations

from collections.abc import Collection

from app.entities.engines import InstructionSet

X86 = ("x86_64", "AMD64")
# Flags of /proc/cpuinfo without which a set is not tried. Of AVX-512 what Ice Lake and Zen 4 have: earlier CPUs gain
# little from it, and AMX comes with more than these.
_NEEDED_FLAGS = {
    InstructionSet.AVX512: ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vbmi", "avx512_vnni"),
    InstructionSet.AVX2: ("avx2", "fma", "f16c", "bmi2"),
}
_AVX2 = ("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C")
_AVX512 = ("GGML_AVX512", "GGML_AVX512_VBMI", "GGML_AVX512_VNNI")


def instruction_sets(machine: str, cpu_flags: Collection[str]) -> tuple[InstructionSet, ...]:
    """Those worth a build, the widest first. `machine` as of uname -m; `cpu_flags` as of /proc/cpuinfo."""
    if machine not in X86:
        return InstructionSet.NATIVE, InstructionSet.BASELINE
    between = [each for each, needed in _NEEDED_FLAGS.items() if set(needed) <= set(cpu_flags)]
    return InstructionSet.NATIVE, *between, InstructionSet.BASELINE


def instruction_options(chosen: InstructionSet) -> dict[str, str]:
    """CMake variables. Each set names all of them: a build folder remembers those of the set before."""
    has = {
        InstructionSet.NATIVE: _AVX2,  # not read with GGML_NATIVE
        InstructionSet.AVX512: (*_AVX2, *_AVX512),
        InstructionSet.AVX2: _AVX2,
        InstructionSet.BASELINE: (),
    }[chosen]
    each = {name: "ON" if name in has else "OFF" for name in (*_AVX2, *_AVX512)}
    return {"GGML_NATIVE": "ON" if chosen is InstructionSet.NATIVE else "OFF", **each}
