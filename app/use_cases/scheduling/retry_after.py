"""When a rejected client should come back (Retry-After): once the loads in its way have probably ended."""

from __future__ import annotations

from app.entities.model import Model
from app.entities.server import Server, ServerState
from app.use_cases.scheduling.demand import expected_load_seconds
from app.use_cases.scheduling.pool_state import PoolState


def retry_after_seconds(state: PoolState, model: Model, now: float) -> float | None:
    """Seconds from `now`. None if the model is loaded: nothing is known of how long answers take."""
    server = state.server_of(model.name)
    if server is not None and server.is_up:
        return None
    if server is not None and server.state is ServerState.STARTING:
        return _remaining_load_seconds(state, server, now)
    other_loads = [
        _remaining_load_seconds(state, other, now) for other in state.servers if other.state is ServerState.STARTING
    ]
    return max(other_loads, default=0.0) + expected_load_seconds(state.demands, model)


def _remaining_load_seconds(state: PoolState, server: Server, now: float) -> float:
    return max(0.0, expected_load_seconds(state.demands, server.model) - (now - server.started_at))
