"""Runtime margin: GPU memory that engines took while they answered, beyond what they reported at their start.

CUDA allocates some memory only when a request needs it. A server that runs out of it while it answers ends; the model's
next servers are booked with a margin on top, which their own reports and measurements do not replace: those are from
before the first request.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.entities.frozen import replace
from app.entities.placement import CPU
from app.entities.server import Server
from app.use_cases.placement.request import NO_MARGIN, LearnedMargin
from app.use_cases.scheduling.pool_state import PoolState

MIN_MARGIN_BYTES = 256 * 1024**2
MARGIN_FRACTION = 0.05  # of what was booked on the fullest GPU
MAX_STEPS = 4  # further failures have another cause, and the margin must not keep the model from being loaded


def margin_after_failure(server: Server) -> LearnedMargin:
    """A GPU ran out of memory although all was booked: another process grew, or the model needs more than estimated;
    nothing tells which."""
    most = max((size for device, size in server.booked.items() if device != CPU), default=0)
    return LearnedMargin(device_bytes=max(MIN_MARGIN_BYTES, round(MARGIN_FRACTION * most)))


def raise_runtime_margin(state: PoolState, server: Server) -> PoolState:
    """After `server` ran out of GPU memory while it answered."""
    step, known = margin_after_failure(server), _margin_of(state, server.model.name)
    raised = LearnedMargin(min(known.device_bytes + step.device_bytes, MAX_STEPS * step.device_bytes))
    return replace(state, runtime_margins={**state.runtime_margins, server.model.name: raised})


def bytes_to_book(state: PoolState, server: Server, needs: Mapping[str, int]) -> dict[str, int]:
    """By device, for what the server reports that it needs: with this margin, and its prompt cache."""
    margin, cache = _margin_of(state, server.model.name), server.placement.prompt_cache_bytes
    return {device: size + (cache if device == CPU else margin.device_bytes) for device, size in needs.items()}


def _margin_of(state: PoolState, model: str) -> LearnedMargin:
    return state.runtime_margins.get(model, NO_MARGIN)
