"""When it makes sense to ask again, for who was turned away: once the loads in the way are likely to be over."""

from __future__ import annotations

from app.entities.model import Model
from app.entities.server import Server, ServerState
from app.use_cases.scheduling.demand import load_seconds
from app.use_cases.scheduling.pool_state import PoolState


def retry_after_seconds(state: PoolState, model: Model, now: float) -> float | None:
    """From now; None where no load is in the way, and nothing is known of how long answers take."""
    server = state.server_of(model.name)
    if server is not None and server.is_up:
        return None
    if server is not None and server.state is ServerState.STARTING:
        return _left(state, server, now)
    others = [_left(state, each, now) for each in state.servers if each.state is ServerState.STARTING]
    return max(others, default=0.0) + load_seconds(state.demands, model)


def _left(state: PoolState, server: Server, now: float) -> float:
    return max(0.0, load_seconds(state.demands, server.model) - (now - server.started_at))
