"""Counters of the pool: loads by outcome, stops, decisions, rejected requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from app.entities.server import Server, ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided, Effect, Refuse, Stop, StopReason
from app.use_cases.scheduling.pool_state import PoolState
from workers.telemetry.families import CounterFamily, HistogramFamily

START_SECONDS = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


CountStep = Callable[[PoolState, ev.Event, Sequence[Effect]], None]  # the state before, the event, what followed


def count_each(*counters: CountStep) -> CountStep:
    """All of them, one after the other."""

    def count(before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        for counter in counters:
            counter(before, event, effects)

    return count


class PoolCounts:
    """Updated after every step by the pool's lock holder."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(CounterFamily, registry)
        self._starts = counter("server_starts", "Model loads by outcome.", "model", "outcome")
        self._stops = counter("server_stops", "Servers that were stopped or crashed, by reason.", "model", "reason")
        help_text = "Servers that were stopped because another model needed their memory, by the model that lost it."
        self._evictions = counter("evictions", help_text, "model")
        self._decisions = counter("decisions", "Placement decisions by outcome.", "outcome")
        self._rejected = counter("requests_rejected", "Requests rejected by the scheduler, by reason.", "reason")
        help_text = "Time from the start of a load until its llama-server is ready."
        self._seconds = HistogramFamily(registry, "server_start_seconds", help_text, "model", buckets=START_SECONDS)

    def count_step(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        match event:
            case ev.Ready(number, _, at) if (server := before.server(number)) and server.state is ServerState.STARTING:
                self._starts.inc(server.model.name, "ready")
                self._seconds.observe(at - server.started_at, server.model.name)
            case ev.Exited(number) if server := before.server(number):
                self._count_exit(server, event)
        for effect in effects:
            match effect:
                case Decided(_, decision):
                    self._decisions.inc(decision.outcome)
                case Refuse(_, refusal):
                    self._rejected.inc(refusal.reason)
                case Stop(number, why) if server := before.server(number):
                    self._stops.inc(server.model.name, why)
                    if is_eviction(server, why):
                        self._evictions.inc(server.model.name)

    def _count_exit(self, server: Server, event: ev.Exited) -> None:
        if server.ready_at is None:
            self._starts.inc(server.model.name, _outcome(server, event))
        elif server.state is not ServerState.STOPPING:
            self._stops.inc(server.model.name, "out_of_memory" if event.ran_out_of_memory else "crashed")


def is_eviction(server: Server, why: StopReason) -> bool:
    """Whether a server that is stopped makes room for another model."""
    return why is StopReason.EVICTED or (why is StopReason.DRAINED and bool(server.drained_for))


def _outcome(server: Server, event: ev.Exited) -> str:
    if server.state is ServerState.STOPPING:
        return "stopped"
    if event.could_not_spawn:
        return "spawn_failed"
    return "out_of_memory" if event.ran_out_of_memory else "failed"
