"""What is measured: a real GPU, or a rehearsal on the CPU. Their results are never mixed."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    GPU = "gpu"
    REHEARSAL = "cpu-rehearsal"
