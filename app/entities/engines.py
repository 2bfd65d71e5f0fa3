"""Engines that were built on this machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_DIGITS = 20  # of a version: Python converts no text of thousands


class Backend(enum.StrEnum):
    """What a llama-server was built for."""

    CUDA = "cuda"
    VULKAN = "vulkan"
    CPU = "cpu"


class InstructionSet(enum.StrEnum):
    """The CPU instructions that a build may use, on x86-64; other machines know the first and the last."""

    NATIVE = "native"  # all that this machine has
    AVX512 = "avx512"  # all but AMX, which some virtual machines announce and cannot run
    AVX2 = "avx2"
    BASELINE = "baseline"  # what every machine of the architecture has


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """A llama-server in the cache directory, built by `engine install`."""

    name: str  # "cuda-11549"; of its folder, and what `engine use` takes
    version: str  # llama.cpp's build number: "11549", or "unknown"
    backend: Backend
    architectures: tuple[str, ...]  # compute capabilities of the cards it was built for: "8.9"; none unless CUDA
    instruction_set: InstructionSet
    source: str  # the source package: "xllamacpp-2026.10.11549.tar.gz"
    size_bytes: int
    binary: str  # the absolute path of its llama-server

    @property
    def build_number(self) -> int:
        """0 if it is not known."""
        return int(self.version) if self.version.isdecimal() and len(self.version) < MAX_DIGITS else 0
