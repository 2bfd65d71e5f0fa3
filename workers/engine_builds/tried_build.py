"""Builds an engine and tries it; one that crashes on the CPU is built again with fewer instructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.entities.engines import InstructionSet
from app.use_cases.engines.trials import Trial, verdict
from workers.engine_builds.stopping import CannotContinue
from workers.engine_builds.trial import try_engine


@dataclass(frozen=True, slots=True)
class TriedBuild:
    """An engine that works. `note`: on which devices it does not, "" on all that it lists."""

    binary: Path
    instruction_set: InstructionSet
    note: str


def tried_build(
    sets: Sequence[InstructionSet],
    build: Callable[[InstructionSet], Path],
    say: Callable[[str], None],
    try_: Callable[[Path], tuple[Trial, tuple[Trial, ...]]] = try_engine,
) -> TriedBuild:
    """The engine that `build` makes with the first of these sets with which it works. `say` gets a line for each that
    does not. Raises CannotContinue if none does, and what `build` raises."""
    left = tuple(sets)
    while True:
        binary = build(left[0])
        result = verdict(*try_(binary), left)
        if result.is_usable:
            return TriedBuild(binary, left[0], result.text)
        if result.narrower is None:
            raise CannotContinue(f"the new engine is not used: {result.text}")
        say(f"{result.text}. It is built again for {result.narrower}")
        left = left[1:]
