"""The real scheduler on a simulated machine and clock.

This module stands in for the pool, the server threads and the poller, and takes no decisions: each event goes through
`schedule.step`, effects are carried out in simulated time, and a Tick is posted when `due_at` says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.launch import LaunchSettings, ModelOptions
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.server import Server
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Grant, ReadGpus, ReadMemory, Refuse, Spawn, Stop
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at, step
from bench.scheduling.arrivals import FollowUp, Request, no_follow_up
from bench.scheduling.causes import Causes
from bench.scheduling.disk import Disk
from bench.scheduling.machines import GIB, RETURN_SECONDS, SLOTS, START_SECONDS, STOP_SECONDS, Machine, Subject
from bench.scheduling.results import Result

RAM_BYTES = 512 * GIB
POLL_SECONDS = 1.0
ANSWER_SECONDS = 0.002  # of an NVML reading
UNLIMITED = 1_000_000
# No request is rejected, as for the peers.
LIMITS = SchedulingLimits(max_waiting=UNLIMITED, max_waiting_per_model=UNLIMITED, ttl_seconds=inf)

Configured = Callable[[Model], Model]  # with settings of its own


@dataclass
class Ours:
    machine: Machine
    requests: tuple[Request, ...]
    follow_up: FollowUp = no_follow_up
    limits: SchedulingLimits = LIMITS
    configured: Configured = lambda model: model
    causes: Causes | None = None  # of the waits, if they are wanted
    result: Result = field(default_factory=Result)
    now: float = 0.0
    polled_at: float = 0.0  # by the poller; its readings are skipped while no request waits for a load

    def __post_init__(self) -> None:
        self.state = PoolState(self.limits)
        self.disk = Disk(self.machine.shares_disk)
        self._of_ticket: dict[int, Request] = {}
        self._subjects = {each.name: each for each in self.machine.models}
        self._models = {each.name: self.configured(_model(each)) for each in self.machine.models}
        # Memory of exited servers, and when the driver reports it as free.
        self._being_released: list[tuple[float, dict[str, int]]] = []
        self._agenda: list[tuple[float, int, ev.Event | None]] = []  # None: the disk may have read a model
        self._order = 0

    def run(self) -> Result:
        self._happen(ev.GpusPolled(self._gpus(), 0.0))
        for request in self.requests:
            self._arrives(request)
        while self._agenda:
            due = due_at(self.state)
            if due is not None and due <= self._agenda[0][0]:
                self._at(max(self.now, due))
                self._happen(ev.Tick(self.now))
                continue
            at, _, event = heapq.heappop(self._agenda)
            self._at(at)
            if event is None:
                self._loads_finish()
            else:
                self._happen(self._as_of_now(event))
        assert not self.state.waiting, "every request is served"
        return self.result

    def _at(self, at: float) -> None:
        """Time passes until `at`."""
        if self.causes is not None:
            self.causes.add(self.state, at - self.now)
        self.now = at

    # --- the simulated machine -------------------------------------------------------------------------------------

    def _happen(self, event: ev.Event) -> None:
        if isinstance(event, ev.Acquire) and self.now >= self.state.gpus.at + POLL_SECONDS:
            self.state, _ = step(self.state, ev.GpusPolled(self._gpus(), self.now))  # stands for the skipped polls
        if isinstance(event, ev.Exited):
            exited = self.state.server(event.server)
            assert exited is not None
            self._being_released.append((self.now + RETURN_SECONDS, dict(exited.booked)))
        self.state, effects = step(self.state, event)
        for effect in effects:
            self._carry_out(effect)
        if self.polled_at <= self.now and self._is_load_awaited():
            self.polled_at = self.now + POLL_SECONDS
            self._later(self.polled_at, ev.GpusPolled(self.state.gpus, 0.0))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn(server):
                subject = self._subjects[server.model.name]
                self.result.loads += 1
                self._later(self.now, ev.Spawned(server.id, server.id, 0.0))
                self.disk.begin(server.id, self.now, START_SECONDS, subject.read_seconds)
                self._later(self.disk.next_at(), None)
            case Stop(server_id):
                self.disk.drop(server_id, self.now)
                self._later(self.now + STOP_SECONDS, ev.Exited(server_id, "stopped", 0.0))
            case Grant(ticket):
                request = self._of_ticket[ticket]
                self.result.note(request, self.now)
                self._later(self.now + request.service_seconds, ev.Release(ticket, 0.0))
                if following := self.follow_up(request, self.now + request.service_seconds):
                    self._arrives(following)
            case ReadGpus():
                self._later(self.now + ANSWER_SECONDS, ev.GpusPolled(self.state.gpus, 0.0))
            case ReadMemory():
                self._later(self.now, ev.MemoryRead(self._memory(), 0.0))
            case Refuse(ticket, refusal):
                raise AssertionError(f"request {ticket} was rejected: {refusal}")

    def _loads_finish(self) -> None:
        for server_id in self.disk.finished(self.now):
            server = self.state.server(server_id)
            assert server is not None
            self.result.load_gpu_seconds += (self.now - server.started_at) * len(server.placement.uuids)
            self._happen(ev.Ready(server_id, 9000, self.now))
        if (next_at := self.disk.next_at()) < inf:
            self._later(next_at, None)

    def _as_of_now(self, event: ev.Event) -> ev.Event:
        """The event with the current time, and with current readings."""
        match event:
            case ev.GpusPolled():
                return ev.GpusPolled(self._gpus(), self.now)
            case ev.MemoryRead():
                return ev.MemoryRead(self._memory(), self.now)
        return replace(event, at=self.now)

    def _is_load_awaited(self) -> bool:
        loaded = {server.model.name for server in self.state.servers}
        return any(each.model.name not in loaded for each in self.state.waiting)

    def _arrives(self, request: Request) -> None:
        self._of_ticket[request.number] = request
        model = self._models[request.subject.name]
        self._later(request.at, ev.Acquire(request.number, model, request.at, inf, request.subject.request))

    def _gpus(self) -> GpuSnapshot:
        """A ready server holds the bytes booked for it, a loading one nothing yet."""
        self._being_released = [each for each in self._being_released if each[0] > self.now]
        held = {server.id: server.booked for server in self.state.servers if server.ready_at is not None}
        gpus = []
        for index, (uuid, size) in enumerate(zip(self.machine.usable, self.machine.cards, strict=True)):
            here = {number: booked[uuid] for number, booked in held.items() if uuid in booked}
            late = sum(booked.get(uuid, 0) for _, booked in self._being_released)
            gpus.append(
                Gpu(uuid, index, "card", total_bytes=size, free_bytes=size - late - sum(here.values()), processes=here)
            )
        return GpuSnapshot(GpuState.OK, self.now, tuple(gpus), poll_seconds=POLL_SECONDS)

    def _memory(self) -> MemoryReading:
        held = {server.id: server.booked.get("cpu", 0) for server in self.state.servers if _is_up(server)}
        return MemoryReading(RAM_BYTES, RAM_BYTES - sum(held.values()), self.now, held)

    def _later(self, at: float, event: ev.Event | None) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (at, self._order, event))


def _is_up(server: Server) -> bool:
    return server.ready_at is not None


def _model(subject: Subject) -> Model:
    launch = LaunchSettings(ModelOptions(ctx_size=4096, parallel=SLOTS))
    return Model(subject.name, f"/models/{subject.name}.gguf", subject.weights_bytes, 0, launch)
