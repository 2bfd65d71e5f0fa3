"""Warns of names in the settings that no GPU has: a misspelled one would be ignored silently."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from app.entities.gpu import GpuSnapshot, GpuState
from app.use_cases.placement.cards import unmatched_names

log = logging.getLogger(__name__)


class GpuNamesCheck:
    """Called with each snapshot of the GPUs by the thread that publishes it. `named`: names by key of the settings."""

    def __init__(self, named: Mapping[str, Iterable[str]]) -> None:
        self._named = named
        self._checked: list[str] = []  # UUIDs of the GPUs present at the last check

    def check(self, gpus: GpuSnapshot) -> None:
        """Logs a line for each such name, once for each set of GPUs."""
        present = [gpu.uuid for gpu in gpus.gpus]
        if gpus.state is not GpuState.OK or present == self._checked:
            return
        self._checked = present
        for line in unmatched_names(self._named, (*gpus.gpus, *gpus.missing)):
            log.warning("%s", line)
