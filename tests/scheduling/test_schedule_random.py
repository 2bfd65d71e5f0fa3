"""Invariants of the scheduler, asserted over hundreds of random histories.

A simulated world answers the scheduler's effects: loads take time, fail or stall, report their needs and their
progress; processes crash; clients disconnect, send keep_alive, order loads and unloads; other processes take memory;
models have pins, priorities and ttls of their own. The world keeps its own account of the memory, beside the ledger.
A failure names its world; `World(number).play()` replays it. `--random-seeds 10` tries others.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import inf
from signal import SIGSEGV

import pytest

from app.entities.launch import ALL_LAYERS
from app.entities.memory import MemoryReading
from app.entities.model import Model, Replicas
from app.entities.placement import CPU
from app.entities.refusal import Reason
from app.entities.server import Server, ServerState
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import NO_MARGIN
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.backoff import active_backoff
from app.use_cases.scheduling.decision_inputs import world_with_eviction_costs
from app.use_cases.scheduling.effects import (
    CheckServer,
    Decided,
    Done,
    Effect,
    Grant,
    ReadMemory,
    Refuse,
    Spawn,
    Stop,
    StopReason,
)
from app.use_cases.scheduling.eviction import place_or_evict
from app.use_cases.scheduling.fairness import is_abandoned_load, waiting_loads
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.load_balancing import is_surplus
from app.use_cases.scheduling.pool_state import Awaited, PoolState
from app.use_cases.scheduling.readings import note_elapsed_time
from app.use_cases.scheduling.record import record
from app.use_cases.scheduling.schedule import PASSES, due_at, step
from app.use_cases.scheduling.suspects import is_suspect
from tests.helpers.builders import (
    GIB,
    a_command,
    a_model,
    a_placement_request,
    assert_steady_step_equals_usual_step,
    booked,
)

FAILURES = {
    *(Reason.LOAD_FAILED, Reason.LOAD_TIMEOUT, Reason.SPAWN_FAILED),
    *(Reason.INSUFFICIENT_MEMORY, Reason.DOES_NOT_FIT, Reason.NO_GPU),
}
HISTORIES = 25  # for each seed
ARRIVALS = 40


class World:
    def __init__(self, seed: int, reloads: int = 0) -> None:
        self.random = random.Random(seed)
        self.reloads = reloads
        self.now = 0.0
        self.total = self.random.choice([8, 16, 32]) * GIB
        self.has_keys = self.random.random() < 0.5
        self.others_bytes = self.others_bytes_when_read = 0
        self.held_when_read: dict[int, int] = {}
        self.models = [self.some_model(number) for number in range(self.random.randint(1, 5))]
        self.projected = {m.name: int(booked(m) * self.random.choice([0.5, 1, 1, 1.2, 3])) for m in self.models}
        self.measured = {m.name: int(min(booked(m), self.projected[m.name]) * 0.9) for m in self.models}
        self.state = PoolState(
            SchedulingLimits(
                max_waiting=self.random.choice([3, 10, 100]),
                max_waiting_per_model=self.random.choice([2, 100]),
                max_loaded=self.random.choice([None, 1, 2]),
                max_wait_seconds=self.random.choice([2, 20, 300]),
                min_residency_seconds=self.random.choice([0, 3, 20]),
                ttl_seconds=self.random.choice([1, 20, 900]),
                stall_timeout_seconds=15,
                hang_timeout_seconds=self.random.choice([3, 30, inf]),
            )
        )
        self.answers_a_second = self.random.choice([0.5, 0.5, 0.1])
        self.agenda: list[tuple[float, int, ev.Event]] = []
        self.order = 0
        self.answers: Counter[int] = Counter()
        self.granted: dict[int, int] = {}
        self.alive: set[int] = set()

    def some_model(self, number: int) -> Model:
        chance = self.random
        model = a_model(f"m{number}", gib=chance.choice([0.5, 2, 5, 9, 40]), slots=chance.choice([1, 2, 4]))
        replicas = Replicas(*chance.choice([(1, 1), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]))
        return replace(
            model,
            pin=chance.random() < 0.15,
            priority=chance.choice([0, 0, 0, 1, -1]),
            ttl_seconds=chance.choice([None, None, None, 2.0, 40.0]),
            replicas=replicas,
        )

    # --- history ---------------------------------------------------------------------------------------

    def play(self) -> None:
        at = 0.0
        for ticket in range(1, ARRIVALS + 1):
            at += self.random.expovariate(1.0)
            patience = self.random.choice([5, 50, 500])
            (kind,) = self.random.choices([ev.Acquire, ev.Load, ev.Unload], [10, 1, 1])
            model = replace(self.random.choice(self.models), created=self.random.choice([1] * 20 + [2]))
            self.later(at, self.command(kind, ticket, model, at, at + patience))
            if self.random.random() < 0.2:
                self.later(at + self.random.expovariate(0.3), ev.Cancel(ticket, 0.0))
        if self.random.random() < 0.2:
            self.later(self.random.uniform(0, at), ev.Drain(0.0))
        for _ in range(self.reloads):
            self.later(self.random.uniform(0, at), self.some_reload())
        self.run()
        assert set(self.answers) == set(range(1, ARRIVALS + 1)), "every request is answered"
        assert not self.state.waiting, "no request is left waiting"
        assert not any(s.leases for s in self.state.servers), "every lease was released"

    def run(self) -> None:
        for _ in range(20_000):
            due = due_at(self.state)
            if due == inf:  # a keep_alive for ever
                due = None
            if not self.agenda and (due is None or self.is_only_searching_for_replicas(due)):
                return
            if not self.agenda or (due is not None and due <= self.agenda[0][0]):
                assert due is not None
                event: ev.Event = ev.Tick(max(due, self.now))
            else:
                at, _, event = heapq.heappop(self.agenda)
                event = self.at(event, max(at, self.now))
            self.now = event.at
            self.happen(event)
        raise AssertionError("the history does not end")

    def is_only_searching_for_replicas(self, due: float) -> bool:
        """For example of a pinned model whose min replicas do not fit: that search never ends."""
        last = self.state.evaluation
        is_replica_search = last is not None and bool(last.replicas) and not last.awaits_readings
        return is_replica_search and due == last.repeat_at and not self.state.waiting

    def happen(self, event: ev.Event) -> None:
        if isinstance(event, ev.Exited):
            if event.server not in self.alive:
                return
            self.alive.discard(event.server)
        if isinstance(event, ev.Ready | ev.Progress) and event.server not in self.alive:
            return
        before = self.state
        self.state, effects = step(before, event)
        assert_steady_step_equals_usual_step(before, event)
        self.check_victims(before, event, effects)
        self.check_ends(event.at, effects)
        self.check_replicas(before, event, effects)
        if isinstance(event, ev.Projected):
            self.check_booking(event)
        for effect in effects:
            self.obey(effect)
        self.check()

    def obey(self, effect: Effect) -> None:
        match effect:
            case ReadMemory():
                if self.random.random() < 0.1:
                    self.others_bytes = int(self.random.choice([0, 0.3, 0.8]) * self.total)
                if self.random.random() < 0.02:
                    self.later(self.now, ev.MemoryReadFailed("no", 0.0))
                else:
                    self.later(self.now, ev.MemoryRead(self.reading(), 0.0))
            case Spawn(server):
                self.check_spawn(server)
                self.alive.add(server.id)
                self.load(server)
            case Stop(server):
                assert server in self.alive
                self.later(self.now + self.random.uniform(0, 2), ev.Exited(server, "stopped", 0.0))
            case Grant(ticket, server):
                self.answers[ticket] += 1
                self.granted[ticket] = server
                self.later(
                    self.now + self.random.expovariate(self.answers_a_second),
                    ev.Release(ticket, 0.0, self.random.choice(list(ev.Ending)), self.some_keep_alive()),
                )
            case CheckServer(server):
                busy = self.random.choice([None, 0, 1, 2])
                signs = self.random.random() < 0.5, self.random.random() < 0.3
                self.later(self.now + 0.1, ev.ServerChecked(server, busy, self.now, 0.0, *signs))
            case Done(ticket) | Refuse(ticket):
                self.answers[ticket] += 1

    def load(self, started: Server) -> None:
        server = started.id
        fate = self.random.random()
        seconds = self.random.uniform(0, 12)
        if self.random.random() < 0.7:
            at = self.now + seconds * self.random.random()
            self.later(at, ev.Projected(server, self.projection(started), 0.0))
        for _ in range(self.random.choice([0, 0, 1, 3])):
            share = self.random.choice([None, self.random.random()])
            self.later(self.now + seconds * self.random.random(), ev.Progress(server, 0.0, share))
        if fate < 0.7:
            self.later(self.now + seconds, ev.Ready(server, 9000 + server, 0.0))
            if self.random.random() < 0.5:
                self.later(self.now + seconds + 0.5, ev.Measured(server, self.measurement(started), 0.0))
            if self.random.random() < 0.2:
                crash = ev.Exited(server, "crash", 0.0, exit_code=-SIGSEGV)
                self.later(self.now + seconds + self.random.uniform(0, 20), crash)
        elif fate < 0.9:
            ran_out = self.random.random() < 0.5
            self.later(self.now + seconds, ev.Exited(server, "bad file", 0.0, ran_out_of_memory=ran_out))
        # else it hangs and must be stopped as stalled

    # --- invariants ---------------------------------------------------------------------------------------

    def check(self) -> None:
        servers = self.state.servers
        assert sum(s.booked[CPU] for s in servers) <= self.total, "never over-committed"
        for name, count in Counter(s.model.name for s in servers).items():
            assert count <= max(s.model.replicas.max for s in self.state.servers_of(name)), "no more than `max`"
        assert max(self.answers.values(), default=0) <= 1, "no request is answered twice"
        assert {s.id for s in servers} == self.alive, "the state has the servers that exist"
        assert all(len(s.leases) <= s.slots for s in servers), "no more requests than slots"
        assert len(self.state.waiting) <= self.state.limits.max_waiting
        assert len(servers) <= (self.state.limits.max_loaded or len(servers)), "no more than max_loaded"
        held_back = {each.model.name for each in self.state.waiting if is_suspect(self.state, each, self.now)}
        free = {server.model.name for server in servers if server.has_free_slot} - held_back
        for server in servers:
            assert server.leases <= server.in_flight.keys()
            if server.exclusive_ticket in server.leases:
                assert server.leases == {server.exclusive_ticket}, "a suspect runs alone"
        waits = [each for each in self.state.waiting if each.awaited is Awaited.SLOT]
        assert not any(each.model.name in free for each in waits), "no request waits while its model has a free slot"
        for server in servers:
            if server.model.pin and server.state is ServerState.DRAINING and server.model.replicas.max == 1:
                assert server.is_terminating, "a pinned model is drained only by order"
            if server.leases and server.state not in (ServerState.READY, ServerState.DRAINING):
                ending = self.state.endings[server.id]
                assert ending.is_hung or ending.is_unloaded, "a busy server is never interrupted"

    def check_victims(self, before: PoolState, event: ev.Event, effects: list[Effect]) -> None:
        """Victims are idle and not pinned, and recently loaded only where no others would do: the first load of the
        step is decided again without the recently loaded ones, and then has no place."""
        stopped = {each.server for each in effects if isinstance(each, Stop) and each.why is StopReason.EVICTED}
        victims = [server for server in before.servers if server.id in stopped]
        if not victims:
            return
        state = settled_except_for_loads(before, event)
        surplus = {server.id for server in state.servers if is_surplus(state, server)}
        abandoned = {server.id for server in state.servers if is_abandoned_load(state, server, event.at)}
        assert not any(v.model.pin and v.id not in surplus for v in victims), "pinned models are never evicted"
        decided = [each for each in effects if isinstance(each, Decided)]
        if not decided or not set(decided[0].evict) & {server.model.name for server in victims}:
            return
        residency = before.limits.min_residency_seconds
        recent = (
            {s.id for s in before.servers if s.ready_at is None or event.at < s.ready_at + residency}
            - surplus
            - abandoned
        )
        if recent & {server.id for server in victims if server.model.name in decided[0].evict}:
            (waiting,) = [each for each in waiting_loads(state, event.at) if each.model.name == decided[0].model][:1]
            assert waiting.placement_request is not None
            request = waiting.placement_request.with_margin(state.learned_margins.get(waiting.model.name, NO_MARGIN))
            world = world_with_eviction_costs(state, event.at)
            kept = tuple(replace(each, is_pinned=each.is_pinned or each.id in recent) for each in world.residents)
            without = decide(request, replace(world, residents=kept))
            place = without.placement
            is_less = place is None or (bool(world.cards) and (place.is_on_cpu or place.n_gpu_layers < ALL_LAYERS))
            assert is_less, f"a recently loaded victim where another would do: {without.reason}"

    def check_ends(self, now: float, effects: list[Effect]) -> None:
        """No server is stopped as idle or stalled before its time; a pinned one without a ttl never as idle."""
        for effect in effects:
            server = self.state.server(effect.server) if isinstance(effect, Stop) else None
            if server is None or not isinstance(effect, Stop):
                continue
            if effect.why is StopReason.IDLE:
                self.check_idle_end(server, now)
            if effect.why is StopReason.STALLED:
                assert now >= server.progress_at + self.state.limits.stall_timeout_seconds, "it has progressed"
            if effect.why is StopReason.HUNG:
                assert server.unresponsive_since is not None, "it has responded"
                assert now >= server.unresponsive_since + self.state.limits.hang_timeout_seconds, "too early"
            if effect.why is StopReason.UNLOAD_FORCED:
                assert now >= server.force_unload_at, "forced too early"
            if effect.why is StopReason.UNLOAD:
                assert server.is_unload_requested or server.ready_at is None, "no unload was ordered"

    def check_idle_end(self, server: Server, now: float) -> None:
        own, kept = server.model.ttl_seconds, server.model.replicas
        left = [each for each in self.state.servers_of(server.model.name) if each.state is ServerState.READY]
        assert not server.leases, "it is in use"
        assert own is not None or not server.model.pin or len(left) >= kept.min, (
            "a pinned model is not unloaded when idle"
        )
        if kept.max == 1:
            said = (server.keep_alive_seconds, own, self.state.limits.ttl_seconds)
            keep = next(each for each in said if each is not None)
            assert now >= server.last_used + keep, "before its idle deadline"

    def check_replicas(self, before: PoolState, event: ev.Event, effects: list[Effect]) -> None:
        """For a replica nothing is evicted, drained or rejected, and none starts while a load waits."""
        now_there = {server.model.name for server in self.state.servers}
        was_draining = {server.id for server in before.servers if server.state is ServerState.DRAINING}
        started = {effect.server.model.name for effect in effects if isinstance(effect, Spawn)}
        for name in started:
            if len(self.state.servers_of(name)) > 1:
                assert all(waiting.model.name in now_there for waiting in self.state.waiting_for_server), (
                    "loads come first"
                )
                others = [each for each in self.state.servers_of(name) if each.state is not ServerState.STARTING]
                assert len(others) == len(self.state.servers_of(name)) - 1, "one at a time"
                assert all(each.state is ServerState.READY for each in others), "while all others are ready"
        for effect in effects:
            if isinstance(effect, Stop) and effect.why is StopReason.EVICTED:
                assert not before.servers_of(effect.detail.removeprefix("for ")), "evicted for a replica"
            if isinstance(effect, Refuse) and effect.refusal.reason in FAILURES:
                ready = [s for s in self.state.servers_of(effect.refusal.model) if s.state is ServerState.READY]
                assert not ready, f"rejected although a server is ready: {effect.refusal}"
        for server in self.state.servers:
            if server.state is ServerState.DRAINING and server.id not in was_draining and not server.is_terminating:
                gone = event.server if isinstance(event, ev.Exited) else None
                left = [each for each in before.servers_of(server.drained_for) if each.id != gone]
                assert not left, "drained for a replica"

    def check_spawn(self, server: Server) -> None:
        assert not active_backoff(self.state.backoffs, server.model, self.now), "started during a backoff"
        others = [s for s in self.state.servers if s.id < server.id]
        will_be = self.others_bytes_when_read + sum(map(self.will_hold, others)) + server.booked[CPU]
        assert will_be <= self.total, (
            "over-committed, once all servers have loaded and other processes hold what was last seen"
        )

    def check_booking(self, event: ev.Projected) -> None:
        server = self.state.server(event.server)
        if server is None or server.state is not ServerState.STARTING:
            return
        assert server.booked == event.needs, "a start that continues is booked as reported"
        will_be = self.others_bytes_when_read + sum(map(self.will_hold, self.state.servers))
        assert will_be <= self.total, "a start that needs more than is available must not continue"

    # --- helpers -----------------------------------------------------------------------------------------

    def some_reload(self) -> ev.Event:
        """Models that are the same, have other settings, are another file, or are gone; and other limits."""
        models = {}
        for model in self.models:
            created = self.random.choice([model.created, model.created, 1, 3])
            priority, ttl = self.random.choice([model.priority, 2]), self.random.choice([model.ttl_seconds, 5.0])
            if self.random.random() < 0.8:
                models[model.name] = replace(model, created=created, priority=priority, ttl_seconds=ttl)
        served = [model for model in models.values() if self.random.random() < 0.9]
        requests = {model.name: a_placement_request(booked(model), model.constraints) for model in served}
        limits = replace(self.state.limits, ttl_seconds=self.random.choice([1, 20]))
        return ev.Reconfigured(limits, models, requests, 0.0)

    def command(self, kind: Callable[..., ev.Event], ticket: int, model: Model, at: float, deadline: float) -> ev.Event:
        command = a_command(kind, ticket, model, at, deadline)
        if isinstance(command, ev.Unload):
            command = replace(command, force_at=at + self.random.choice([inf, 0.0, 3.0]))
        if isinstance(command, ev.Acquire) and self.has_keys:
            command = replace(command, key=self.random.choice(["a", "a", "a", "b"]))
        if isinstance(command, ev.Acquire):
            command = replace(command, request_hash=self.random.choice(["", f"{model.name} x", f"{model.name} y"]))
            command = replace(command, may_load=self.random.random() < 0.9)
        return self.in_conversation(command)

    def in_conversation(self, command: ev.Event) -> ev.Event:
        if not isinstance(command, ev.Acquire) or command.model.replicas.max == 1:
            return command
        return replace(command, conversation=self.random.choice([None, 1, 2, 3]))

    def some_keep_alive(self) -> float | None:
        return self.random.choice([None, None, None, None, 0.0, 5.0, inf])

    def projection(self, server: Server) -> dict[str, int]:
        """What its llama-server reports before it loads."""
        return {CPU: self.projected[server.model.name]}

    def measurement(self, server: Server) -> dict[str, int]:
        """What is measured once it is ready: never more than was booked, since a ready server is not stopped for it."""
        return {CPU: self.measured[server.model.name]}

    def reading(self) -> MemoryReading:
        """What the machine shows: a loading server holds any part of its booking, a ready one all of it."""
        held = {
            s.id: int(s.booked[CPU] * (1.0 if s.ready_at is not None else self.random.random()))
            for s in self.state.servers
        }
        self.others_bytes = min(self.others_bytes, self.total - sum(s.booked[CPU] for s in self.state.servers))
        self.others_bytes_when_read, self.held_when_read = self.others_bytes, held
        return MemoryReading(self.total, self.total - self.others_bytes - sum(held.values()), self.now, held)

    def will_hold(self, server: Server) -> int:
        """All that is booked, except that a stopped load does not grow any more."""
        ended = server.state is ServerState.STOPPING and server.ready_at is None
        return self.held_when_read.get(server.id, server.booked[CPU]) if ended else server.booked[CPU]

    def later(self, at: float, event: ev.Event) -> None:
        self.order += 1
        heapq.heappush(self.agenda, (at, self.order, event))

    @staticmethod
    def at(event: ev.Event, at: float) -> ev.Event:
        return type(event)(**{**{f: getattr(event, f) for f in event.__dataclass_fields__}, "at": at})


def settled_except_for_loads(state: PoolState, event: ev.Event) -> PoolState:
    """The state that the last pass of the step gets."""
    state, _ = record(state, event)
    for settle in PASSES[: PASSES.index(place_or_evict)]:
        state, _ = settle(state, event.at)
    return note_elapsed_time(state, event.at)


@pytest.mark.seeds(6)  # six others in make test-extra
def test_random_histories(seed: int):
    for history in range(seed * HISTORIES, (seed + 1) * HISTORIES):
        try:
            World(history).play()
        except AssertionError as error:
            raise AssertionError(f"World({history}): {error}") from error


@pytest.mark.seeds(3)
def test_random_histories_with_reloads(seed: int):
    for history in range(seed * HISTORIES, (seed + 1) * HISTORIES):
        try:
            World(history, reloads=4).play()
        except AssertionError as error:
            raise AssertionError(f"World({history}, reloads=4): {error}") from error
