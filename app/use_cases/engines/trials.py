"""What the trial of a new engine means: use it, build it again with fewer instructions, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.entities.engines import InstructionSet


@dataclass(frozen=True, slots=True)
class Trial:
    """One start of an engine with a small model, on one device."""

    device: str  # "the CPU", or as the engine lists it: "CUDA0 (NVIDIA GeForce RTX 4090)"
    problem: str = ""  # "" if it answered
    crashed: bool = False  # ended by a signal such as SIGILL or SIGSEGV


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text`: why it cannot be used, or what does not work although it can."""

    is_usable: bool
    text: str = ""
    narrower: InstructionSet | None = None  # what to build again with


def verdict(cpu: Trial, gpus: Sequence[Trial], sets: Sequence[InstructionSet]) -> Verdict:
    """`sets`: that of the build, then those that are left, the widest first. `gpus`: empty if the engine lists none."""
    if cpu.crashed and len(sets) > 1:
        return Verdict(False, f"built for {sets[0]}, it fails on {cpu.device}: {cpu.problem}", sets[1])
    if cpu.problem:
        return Verdict(False, f"it fails on {cpu.device}: {cpu.problem}")
    failed = "; ".join(f"it fails on {each.device}: {each.problem}" for each in gpus if each.problem)
    return Verdict(not failed or any(not each.problem for each in gpus), failed)
