"""Causes: what the requests of a run waited for, in seconds per request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from app.entities.server import ServerState
from app.entities.wait_cause import WaitCause
from app.use_cases.scheduling.pool_state import PoolState

OWN_LOAD, SLOT, NOT_DECIDED, MEMORY = "own load", "slot", "not decided yet", "memory"
OF_DECISION = {
    WaitCause.PROTECTED: "idle, not evicted",
    WaitCause.BUSY: "busy, not drained",
    WaitCause.DRAINING: "draining",
    WaitCause.LOADING: "other loads",
    WaitCause.RESERVED: "other loads",
    WaitCause.RELEASING: MEMORY,
    WaitCause.OTHERS: MEMORY,
    None: MEMORY,
}
CAUSES = (OWN_LOAD, *dict.fromkeys(OF_DECISION.values()), NOT_DECIDED, SLOT)
_OF_SERVER = {ServerState.STARTING: OWN_LOAD, ServerState.READY: SLOT}  # else it ends, and its memory is awaited


@dataclass
class Causes:
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, state: PoolState, seconds: float) -> None:
        """So much time passed in this state, for all that wait."""
        if seconds <= 0 or not state.waiting:
            return
        waiters = Counter(waiter.model.name for waiter in state.waiting)
        for model, count in waiters.items():
            self.seconds[_cause(state, model)] += count * seconds

    def per_request(self, count: int) -> dict[str, float]:
        return {cause: round(self.seconds[cause] / count, 3) for cause in CAUSES}


def _cause(state: PoolState, model: str) -> str:
    if server := state.server_of(model):
        return _OF_SERVER.get(server.state, "draining")
    decided = state.evaluation.decided if state.evaluation else ()
    load = next((each for each in decided if each.model == model), None)
    return OF_DECISION[load.decision.cause] if load else NOT_DECIDED
