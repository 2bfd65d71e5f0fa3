"""The same random histories on a machine whose GPU uses its RAM: models on the GPU and on the CPU share one pool.

A failure names its world; `UnifiedWorld(number).play()` replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import CPU, GpuLimits
from app.entities.server import Server, ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, ReadGpus, Spawn
from tests.helpers.builders import GIB
from tests.helpers.gpu_play import eight_layers
from tests.scheduling.test_schedule_random import ARRIVALS, World

S = "GPU-s"
HISTORIES = 10  # for each seed
LONGEST_SECONDS = ARRIVALS * 10


class UnifiedWorld(World):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        chance = self.random
        self.reserve = chance.choice([0, GIB])
        self.shows_pids = chance.random() < 0.7
        self.shares: dict[int, float] = {}  # by server: how much of its booking it has allocated
        self.releasing: list[tuple[float, int]] = []  # (until, bytes): not free yet
        limits = replace(self.state.limits, gpu_limits=GpuLimits(self.reserve))
        self.state = replace(self.state, limits=limits, gpus=self.gpus())
        self.on_cpu = {model.name for model in self.models if chance.random() < 0.3}
        self.contexts = {model.name: chance.choice([4096, 8192, 65536]) for model in self.models}
        for second in range(LONGEST_SECONDS):
            self.later(float(second), ev.Tick(0.0))  # stands for a poll

    # --- history ---------------------------------------------------------------------------------------

    def happen(self, event: ev.Event) -> None:
        is_poll = isinstance(event, ev.Tick) and event.at == int(event.at) and self.random.random() < 0.95
        if is_poll or isinstance(event, ev.GpusPolled):
            event = ev.GpusPolled(self.gpus(), event.at)
        if isinstance(event, ev.Exited) and event.server in self.alive:
            ended = self.state.server(event.server)
            assert ended is not None
            self.releasing.append((event.at + self.random.choice([0, 0.3, 1.5]), self.held(ended)))
        super().happen(event)

    def obey(self, effect: Effect) -> None:
        if isinstance(effect, ReadGpus):
            self.later(self.now + self.random.choice([0, 0.002, 0.2]), ev.GpusPolled(self.state.gpus, 0.0))
            return
        super().obey(effect)
        if isinstance(effect, Spawn):
            self.later(self.now, ev.Spawned(effect.server.id, effect.server.id, 0.0))

    def run(self) -> None:
        """Bounded: the polls alone would continue for ever."""
        self.agenda = [each for each in self.agenda if not isinstance(each[2], ev.Tick) or each[0] < LONGEST_SECONDS]
        super().run()

    # --- invariants --------------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        booked = sum(each.expected_bytes for each in self.state.servers)
        assert booked <= self.total - self.reserve, "RAM is over-committed"

    def check_spawn(self, server: Server) -> None:
        others = sum(self.will_hold(each) for each in self.state.servers if each.id < server.id)
        will_be = self.others_bytes_when_read + others + server.expected_bytes
        assert will_be <= self.total - self.reserve, "over-committed, once all servers have loaded"
        assert server.placement.is_on_cpu == (server.model.name in self.on_cpu), "the GPU was there"

    def check_booking(self, event: ev.Projected) -> None:
        server = self.state.server(event.server)
        if server is not None and server.state is ServerState.STARTING:
            assert server.booked == event.needs, "a start that continues is booked as reported"

    # --- helpers -----------------------------------------------------------------------------------------

    def command(self, kind: Callable[..., ev.Event], ticket: int, model: Model, at: float, deadline: float) -> ev.Event:
        request = eight_layers(self.contexts[model.name])
        if model.name in self.on_cpu:
            request = replace(request, options=replace(request.options, n_gpu_layers=0))
        needed = () if kind is ev.Unload else (request,)
        return self.in_conversation(kind(ticket, model, at, deadline, *needed))

    def projection(self, server: Server) -> dict[str, int]:
        factor = self.random.choice([0.7, 1, 1, 1.1, 1.6])
        return {device: int(size * factor) for device, size in server.booked.items()}

    def measurement(self, server: Server) -> dict[str, int]:
        return {device: int(size * 0.65) for device, size in server.booked.items()}

    def held(self, server: Server, device: str | None = None) -> int:
        """RAM that it holds on this device, or on all: while it loads more and more."""
        share = 1.0 if server.ready_at is not None else max(self.shares.get(server.id, 0.0), self.random.random() / 2)
        self.shares[server.id] = share
        return int(share * (server.expected_bytes if device is None else server.booked.get(device, 0)))

    def will_hold(self, server: Server) -> int:
        ended = server.state is ServerState.STOPPING and server.ready_at is None
        return self.held_when_read.get(server.id, server.expected_bytes) if ended else server.expected_bytes

    def available(self) -> int:
        servers = self.state.servers
        self.releasing = [each for each in self.releasing if each[0] > self.now]
        away = sum(size for _, size in self.releasing)
        self.others_bytes = max(0, min(self.others_bytes, self.total - away - sum(s.expected_bytes for s in servers)))
        return self.total - self.others_bytes - away - sum(map(self.held, servers))

    def reading(self) -> MemoryReading:
        available, servers = self.available(), self.state.servers
        self.others_bytes_when_read = self.others_bytes
        self.held_when_read = {each.id: self.held(each) for each in servers}
        held = {each.id: self.held(each, CPU) for each in servers}
        return MemoryReading(self.total, max(0, available), self.now, held)

    def gpus(self) -> GpuSnapshot:
        shown = {each.id: self.held(each, S) for each in self.state.servers} if self.shows_pids else {}
        sizes = {"total_bytes": self.total, "free_bytes": max(0, self.available())}
        gpu = Gpu(S, 0, "NVIDIA GB10", is_unified=True, processes=shown, **sizes)
        return GpuSnapshot(GpuState.OK, self.now, (gpu,), poll_seconds=1.0)


@pytest.mark.seeds(3)  # six others in make test-extra
def test_random_histories_on_unified_memory(seed: int):
    for history in range(seed * HISTORIES, (seed + 1) * HISTORIES):
        try:
            UnifiedWorld(history).play()
        except AssertionError as error:
            raise AssertionError(f"UnifiedWorld({history}): {error}") from error
