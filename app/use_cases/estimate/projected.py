"""What an engine says before it loads a model, compared with the estimate of the same start, and used for other starts.

An engine without GPUs can tell the weights and the context: they are as large wherever they are placed. What a GPU
computes with, it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.entities.memory import Confidence, DeviceMemory, Estimate

CERTAIN = frozenset({Confidence.EXACT, Confidence.MEASURED})
MIB = 1024**2
ROUNDING_BYTES = 3 * MIB  # the engine cuts each figure of each kind of buffer to whole MiB


@dataclass(frozen=True, slots=True)
class Correction:
    """Factors for the weights and for the context, 1 where the engine says what the estimate says."""

    weights: float = 1.0
    context: float = 1.0
    problem: str = ""  # why the engine said nothing

    @property
    def text(self) -> str:
        """For the notes of an estimate."""
        if self.problem:
            return self.problem
        if self == NO_CORRECTION:
            return "the engine confirms weights and context"
        changes = [f"{name} by {100 * (factor - 1):+.1f} %" for name, factor in self._factors() if factor != 1]
        return f"the engine corrects {' and '.join(changes)}"

    def _factors(self) -> tuple[tuple[str, float], ...]:
        return ("weights", self.weights), ("context", self.context)


NO_CORRECTION = Correction()


def correction(estimated: Estimate, projected: Estimate) -> Correction:
    """Of the engine's projection to the estimate of the same start, both on the CPU."""
    own, said = estimated.host, projected.host
    return Correction(_factor(own.weights_bytes, said.weights_bytes), _factor(own.context_bytes, said.context_bytes))


def _factor(own_bytes: int, said_bytes: int) -> float:
    differs = own_bytes > 0 and abs(said_bytes - own_bytes) > ROUNDING_BYTES
    return (said_bytes + ROUNDING_BYTES) / own_bytes if differs else 1.0


def corrected(estimate: Estimate, by: Correction) -> Estimate:
    """The estimate of another start of the same model, with what the engine said of one."""
    devices = tuple(_corrected(each, by) for each in estimate.devices)
    return replace(estimate, devices=devices, host=_corrected(estimate.host, by), notes=(*estimate.notes, by.text))


def corrected_unless_certain(estimate: Estimate, by: Correction) -> Estimate:
    return estimate if estimate.confidence in CERTAIN else corrected(estimate, by)


def _corrected(memory: DeviceMemory, by: Correction) -> DeviceMemory:
    weights, context = round(by.weights * memory.weights_bytes), round(by.context * memory.context_bytes)
    return replace(memory, weights_bytes=weights, context_bytes=context)
