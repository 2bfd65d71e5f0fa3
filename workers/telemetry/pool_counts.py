"""Counters of the pool: loads by outcome, stops, decisions, rejected requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.entities.server import Server, ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided, Effect, Refuse, Stop
from app.use_cases.scheduling.pool_state import PoolState

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
        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"llama_smart_proxy_{name}", help_text, labels, registry=registry)

        self._starts = counter("server_starts", "Model loads by outcome.", "model", "outcome")
        self._stops = counter("server_stops", "Servers that were stopped or crashed, by reason.", "model", "reason")
        self._decisions = counter("decisions", "Placement decisions by outcome.", "outcome")
        self._rejected = counter("requests_rejected", "Requests rejected by the scheduler, by reason.", "reason")
        self._seconds = Histogram(
            "llama_smart_proxy_server_start_seconds",
            "Time from the start of a load until its llama-server is ready.",
            ["model"],
            buckets=START_SECONDS,
            registry=registry,
        )

    def count_step(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        match event:
            case ev.Ready(number, _, at) if (server := before.server(number)) and server.state is ServerState.STARTING:
                self._starts.labels(server.model.name, "ready").inc()
                self._seconds.labels(server.model.name).observe(at - server.started_at)
            case ev.Exited(number) if server := before.server(number):
                self._count_exit(server, event)
        for effect in effects:
            match effect:
                case Decided(_, decision):
                    self._decisions.labels(decision.outcome).inc()
                case Refuse(_, refusal):
                    self._rejected.labels(refusal.reason).inc()
                case Stop(number, why) if server := before.server(number):
                    self._stops.labels(server.model.name, why).inc()

    def _count_exit(self, server: Server, event: ev.Exited) -> None:
        if server.ready_at is None:
            self._starts.labels(server.model.name, _outcome(server, event)).inc()
        elif server.state is not ServerState.STOPPING:
            self._stops.labels(server.model.name, "out_of_memory" if event.ran_out_of_memory else "crashed").inc()


def _outcome(server: Server, event: ev.Exited) -> str:
    if server.state is ServerState.STOPPING:
        return "stopped"
    if event.could_not_spawn:
        return "spawn_failed"
    return "out_of_memory" if event.ran_out_of_memory else "failed"
