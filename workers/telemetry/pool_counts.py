"""Counts what happens in the pool: loads and how they ended, stops, decisions, refusals."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.entities.server import Server, ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided, Effect, Refuse, Stop
from app.use_cases.scheduling.pool_state import PoolState

START_SECONDS = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class PoolCounts:
    """Told of every step by who has the pool's turn."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"llama_smart_proxy_{name}", about, labels, registry=registry)

        self._starts = counter("server_starts", "Loads that have ended, by how.", "model", "outcome")
        self._stops = counter("server_stops", "Servers that were ended, or crashed.", "model", "reason")
        self._decisions = counter("decisions", "Decisions about a model's place.", "outcome")
        self._rejected = counter("requests_rejected", "Requests that got no server.", "reason")
        self._seconds = Histogram(
            "llama_smart_proxy_server_start_seconds",
            "From a load's start until its server answers.",
            ["model"],
            buckets=START_SECONDS,
            registry=registry,
        )

    def stepped(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        match event:
            case ev.Ready(number, _, at) if (server := before.server(number)) and server.state is ServerState.STARTING:
                self._starts.labels(server.model.name, "ready").inc()
                self._seconds.labels(server.model.name).observe(at - server.started_at)
            case ev.Exited(number) if server := before.server(number):
                self._ended(server, event)
        for effect in effects:
            match effect:
                case Decided(_, decision):
                    self._decisions.labels(decision.outcome).inc()
                case Refuse(_, refusal):
                    self._rejected.labels(refusal.reason).inc()
                case Stop(number, why) if server := before.server(number):
                    self._stops.labels(server.model.name, why).inc()

    def _ended(self, server: Server, event: ev.Exited) -> None:
        if server.ready_at is None:
            self._starts.labels(server.model.name, _outcome(server, event)).inc()
        elif server.state is not ServerState.STOPPING:
            self._stops.labels(server.model.name, "crashed").inc()


def _outcome(server: Server, event: ev.Exited) -> str:
    if server.state is ServerState.STOPPING:
        return "stopped"
    if event.could_not_spawn:
        return "spawn_failed"
    return "out_of_memory" if event.ran_out_of_memory else "failed"
