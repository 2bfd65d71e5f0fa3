"""What is measured: a real GPU, or the rehearsal of it on a CPU. Results of the two never meet."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    GPU = "gpu"
    REHEARSAL = "cpu-rehearsal"
