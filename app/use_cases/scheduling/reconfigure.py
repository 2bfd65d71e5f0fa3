"""Reconfigure: what a reload of the configuration changes for servers and waiting requests.

A server whose model is served as before stays, with its requests. One whose model has changed or is gone accepts
nothing new and ends after its running requests; one that is still loading is stopped at once. Nothing is started here:
the passes load what requests wait for.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.entities.frozen import replace
from app.entities.model import Model
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling.card_failures import without_own_engines
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.events import Reconfigured
from app.use_cases.scheduling.load_balancing import retention_key
from app.use_cases.scheduling.pin_orders import orders_after_reload
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    STARTING,
    STOPPING,
    Awaited,
    PoolState,
    Step,
    Waiter,
    begin_termination,
    reject,
    stop_server,
    update_server,
)


def reconfigure(state: PoolState, event: Reconfigured) -> Step:
    """The state under the new limits and models; the last placement decisions no longer count."""
    effects: list[Effect] = []
    state = replace(_without_old_failures(state, event.models), limits=event.limits, evaluation=None, restarts={})
    state = replace(state, pin_orders=orders_after_reload(state.pin_orders, event.models))
    for server in state.servers:
        model = event.models.get(server.model.name)
        if model is not None and server.model.is_served_as(model):
            state = update_server(state, server.id, lambda s, model=model: replace(s, model=model))  # type: ignore[misc]
        else:
            state, orders = _end(state, server)
            effects += orders
    for server in _surplus(state):
        state, orders = _end(state, server)
        effects += orders
    state, orders = _redefine_waiters(state, event)
    return state, [*effects, *orders]


def _without_old_failures(state: PoolState, models: Mapping[str, Model]) -> PoolState:
    """What was learned from the failures of a model's servers does not hold for other settings."""
    known = state.backoffs.keys() | {server.model.name for server in state.servers}
    before = {name: backoff.model for name, backoff in state.backoffs.items()}
    before |= {server.model.name: server.model for server in state.servers}
    kept = {name for name in known if name in models and before[name].is_served_as(models[name])}
    return replace(
        state,
        card_failures=without_own_engines(
            state.card_failures, [name for name, model in models.items() if model.launch.engine]
        ),
        failures={name: failure for name, failure in state.failures.items() if name in kept},
        learned_margins={name: margin for name, margin in state.learned_margins.items() if name in kept},
        backoffs={name: backoff for name, backoff in state.backoffs.items() if name in kept},
        suspects={each: known for each, known in state.suspects.items() if _is_unchanged(known.model, models)},
        crashes={name: known for name, known in state.crashes.items() if _is_unchanged(known[-1].model, models)},
    )


def _is_unchanged(model: Model, models: Mapping[str, Model]) -> bool:
    return model.name in models and model.is_served_as(models[model.name])


def _end(state: PoolState, server: Server) -> Step:
    if server.state is STOPPING:
        return state, []
    if server.state is STARTING:
        return stop_server(state, server, StopReason.DRAINED, "its settings have changed")
    return begin_termination(state, server), []


def _surplus(state: PoolState) -> list[Server]:
    """Servers beyond `replicas.max`; those that are kept longest come first in the count, drained ones last."""
    surplus = []
    for name in dict.fromkeys(server.model.name for server in state.servers):
        serving = [s for s in state.servers_of(name) if s.state is not STOPPING and not s.is_terminating]
        ranked = sorted(serving, key=lambda s: (s.state is DRAINING, *retention_key(s)))
        surplus += ranked[ranked[0].model.replicas.max :] if ranked else []
    return surplus


def _redefine_waiters(state: PoolState, event: Reconfigured) -> Step:
    """Waiting requests get a server of the model as it is now; those whose model cannot be served any more end."""
    waiting = tuple(_redefined(waiter, event) or waiter for waiter in state.waiting)
    refusals = {
        waiter.ticket: Refusal(Reason.UNLOADED, waiter.model.name)
        for waiter in state.waiting
        if _redefined(waiter, event) is None
    }
    return reject(replace(state, waiting=waiting), refusals)


def _redefined(waiter: Waiter, event: Reconfigured) -> Waiter | None:
    """The waiter, for the model that its name means now; None if there is none, or none that can be served."""
    if waiter.awaited is Awaited.UNLOADED:
        return waiter
    model = event.models.get(waiter.model.name)
    if model is not None and waiter.model.is_served_as(model):
        return replace(waiter, model=model)
    request = event.placement_requests.get(waiter.model.name)
    return replace(waiter, model=model, placement_request=request) if model and request else None
