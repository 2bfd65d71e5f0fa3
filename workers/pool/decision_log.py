"""The log of decisions: the last ones are kept for GET /decisions, and each change is a log line."""

from __future__ import annotations

import logging
import time

from app.entities.launch import OwnEngine
from app.use_cases.reporting.decision_record import MAX_RECORDS, DecisionRecord
from app.use_cases.scheduling.effects import Decided
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.quarantine import quarantined_keys
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)


def record_decision(store: StateStore, decided: Decided, state: PoolState, now: float, step_ms: float) -> None:
    """Add a decision to `store.decisions`. One that repeats an earlier one replaces it and is not logged: loads that
    wait are decided again and again, and would displace all other decisions."""
    decision, known = decided.decision, store.decisions[-MAX_RECORDS:]
    age = max(0.0, now - state.gpus.at) if state.gpus.poll_seconds is not None else 0.0
    about = decided.model, decision, decided.evict, step_ms, age, decided.evict_idle_seconds
    record = DecisionRecord(time.time(), *about, engine=_own_engine(state, decided.model))
    others = tuple(earlier for earlier in known if not record.repeats(earlier))
    if len(others) == len(known):
        log.info("decided model=%s outcome=%s ms=%.1f %s", decided.model, decision.outcome, step_ms, decision.reason)
    store.decisions = (*others[-MAX_RECORDS + 1 :], record)


def _own_engine(state: PoolState, name: str) -> OwnEngine | None:
    """Of the model that was decided about: it is waited for, or has a server."""
    models = (*(waiter.model for waiter in state.waiting), *(server.model for server in state.servers))
    return next((model.launch.engine for model in models if model.name == name), None)


def log_isolation(before: PoolState, after: PoolState) -> None:
    """Log which GPUs, requests and keys are kept apart from now on, and which requests are refused."""
    if after.card_failures is not before.card_failures:
        _log_set_aside(before, after)
    if after.suspects is not before.suspects:
        _log_suspects(before, after)


def _log_set_aside(before: PoolState, after: PoolState) -> None:
    """Log which GPUs are set aside from now on."""
    for gpu in after.gpus.missing:
        if after.card_failures.get(gpu.uuid) != before.card_failures.get(gpu.uuid):
            log.warning("set aside gpu=%d uuid=%s %s", gpu.index, gpu.uuid, gpu.problem)


def _log_suspects(before: PoolState, after: PoolState) -> None:
    """Log which requests became suspect, or are refused from now on, because a server crashed, and which keys are in
    quarantine from now on."""
    for request_hash, suspect in after.suspects.items():
        if suspect != before.suspects.get(request_hash):
            action = "refused" if suspect.is_refused else "runs alone the next time"
            log.warning("suspect request_hash=%s: in flight when a server crashed; %s", request_hash, action)
    for name, crashes in after.crashes.items():
        model, at = crashes[-1].model, crashes[-1].at
        for key in sorted(quarantined_keys(after, model, at) - quarantined_keys(before, model, at)):
            log.warning("quarantine model=%s key=%s: in flight at each of the last crashes; runs alone", name, key)
