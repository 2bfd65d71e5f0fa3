"""The same random histories on machines with GPUs: readings that never arrive, GPUs that disappear and return, other
processes, memory that is released late. No GPU is ever over-committed.

A failure names its world; `GpuWorld(number).play()` replays it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.entities.gpu import NOT_READ, Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.model import Model
from app.entities.placement import CPU, CpuFallback, GpuLimits, PlacementConstraints
from app.entities.server import Server, ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, ReadGpus, Spawn
from app.use_cases.scheduling.gpu_sleep import may_sleep
from app.use_cases.scheduling.held_levels import GRANULARITY_BYTES, standing_bytes
from tests.helpers.builders import GIB
from tests.helpers.gpu_play import eight_layers
from tests.scheduling.test_schedule_random import ARRIVALS, World

HISTORIES = 6  # for each seed
RELEASED_LATE_SECONDS = 6.0  # by then what was released is free, or no longer waited for
LONGEST_SECONDS = ARRIVALS * 10


class GpuWorld(World):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        chance = self.random
        self.total = 128 * GIB
        self.cards = {f"GPU-{n}": chance.choice([6, 8, 12, 24]) * GIB for n in range(chance.randint(1, 4))}
        self.others_by_gpu = self.others_by_gpu_when_read = dict.fromkeys(self.cards, 0)
        self.releasing: list[tuple[float, str, int]] = []  # (until, GPU, bytes): not shown as free yet
        self.on_cards_when_read: dict[int, dict[str, int]] = {}
        self.ends: dict[int, Server] = {}
        self.seen_others: dict[str, list[tuple[float, int]]] = {}  # by GPU: (when read, bytes)
        self.away: str | None = None  # the GPU that is missing at the moment
        self.card_faults = random.Random(seed)
        self.shows_pids = chance.random() < 0.7
        self.gpu_limits = GpuLimits(chance.choice([0, GIB // 2]), chance.choice([None, None, 7 * GIB]))
        fallback = chance.choice(list(CpuFallback))
        self.idle_seconds = random.Random(seed).choice([None, 1.0, 3.0])
        limits = replace(self.state.limits, gpu_limits=self.gpu_limits, cpu_fallback=fallback)
        self.state = replace(self.state, limits=replace(limits, gpu_idle_close_seconds=self.idle_seconds))
        self.contexts = {model.name: chance.choice([4096, 8192, 65536]) for model in self.models}
        self.models = [replace(model, constraints=self.some_constraints(fallback)) for model in self.models]
        for second in range(LONGEST_SECONDS):
            self.later(float(second), ev.Tick(0.0))  # stands for a poll

    def some_constraints(self, fallback: CpuFallback) -> PlacementConstraints:
        chance, names = self.random, list(self.cards)
        return PlacementConstraints(
            gpus=(chance.choice(names),) if chance.random() < 0.15 else (),
            exclude=(chance.choice(names),) if chance.random() < 0.1 else (),
            min_gpus=chance.choice([1, 1, 1, 2]),
            max_gpus=chance.choice([None, None, 2]),
            has_auto_context=chance.random() < 0.3,
            partial_offload=chance.random() < 0.2,
            cpu_when_full=fallback is CpuFallback.WHEN_FULL,
        )

    # --- history ---------------------------------------------------------------------------------------

    def happen(self, event: ev.Event) -> None:
        if isinstance(event, ev.Tick) and event.at == int(event.at) and self.random.random() < 0.95:
            event = self.polled(event)
        if isinstance(event, ev.GpusPolled) and event.gpus.state is not GpuState.ASLEEP:
            event = ev.GpusPolled(self.gpus(), event.at)  # as of now, not of the request
        if isinstance(event, ev.Exited) and event.server in self.alive:
            ended = self.state.server(event.server)
            assert ended is not None
            for uuid, size in self.on_cards(ended).items():
                self.releasing.append((event.at + self.random.choice([0, 0.3, 1.5, 3]), uuid, size))
            if not ended.placement.is_on_cpu and self.card_faults.random() < 0.3:
                event = replace(event, gpu_failure=self.gpu_failure(), ran_out_of_memory=False)
        super().happen(event)
        if isinstance(event, ev.GpusPolled):
            self.check_others()

    def check_others(self) -> None:
        """Nothing of ours counts for long as another process's, whatever it does and however late it is released. A GPU
        that is missing or set aside counts as a whole."""
        begin, present = self.now - RELEASED_LATE_SECONDS, {gpu.uuid for gpu in self.state.gpus.gpus}
        for uuid in self.state.known_gpus:
            levels = self.state.held_by_others[uuid]
            true_sizes = self.seen_others.setdefault(uuid, [])
            true_sizes.append((self.now, self.others_by_gpu_when_read[uuid] if uuid in present else self.cards[uuid]))
            most = max(size for at, size in true_sizes if at >= begin)
            standing = standing_bytes(levels, self.now, RELEASED_LATE_SECONDS)
            assert standing <= most + GRANULARITY_BYTES, f"{uuid}: {standing} of {most} bytes are other processes'"

    def polled(self, event: ev.Tick) -> ev.Event:
        """The next poll. Idle GPUs are closed instead, and no longer polled."""
        if self.state.gpus.state is GpuState.ASLEEP:
            return event
        # A load may ask for a reading while NVML is being closed.
        is_asked = self.idle_seconds is not None and not self.state.servers and self.state.gpus.state is GpuState.OK
        is_closed = may_sleep(self.state, event.at) or (is_asked and self.random.random() < 0.2)
        return ev.GpusPolled(self.state.gpus.asleep() if is_closed else self.gpus(), event.at)

    def gpu_failure(self) -> ev.GpuFailure:
        chance = self.card_faults
        device, is_of_card = chance.choice([None, 0, 1]), chance.random() < 0.3
        return ev.GpuFailure("CUDA error", chance.random() < 0.3, device, is_of_card)

    def obey(self, effect: Effect) -> None:
        if isinstance(effect, ReadGpus):
            if self.random.random() < 0.9:
                self.later(self.now + self.random.choice([0, 0.002, 0.2]), ev.GpusPolled(NOT_READ, 0.0))
            return
        super().obey(effect)
        if isinstance(effect, Spawn):
            self.later(self.now, ev.Spawned(effect.server.id, effect.server.id, 0.0))

    def run(self) -> None:
        """Bounded: the polls alone would continue for ever."""
        self.agenda = [each for each in self.agenda if not isinstance(each[2], ev.Tick) or each[0] < LONGEST_SECONDS]
        super().run()

    # --- invariants ---------------------------------------------------------------------------------------

    def check_spawn(self, server: Server) -> None:
        super().check_spawn(server)
        for uuid in server.booked.keys() & self.cards.keys():
            ours = sum(self.will_hold_on(each, uuid) for each in self.state.servers)
            gone = sum(size for until, on, size in self.releasing if on == uuid and until > self.polled_at)
            most = self.cards[uuid] - self.gpu_limits.reserve_bytes
            assert self.others_by_gpu_when_read[uuid] + ours + gone <= most, f"{uuid} is over-committed"
            if self.gpu_limits.max_vram_bytes is not None:
                booked = sum(each.booked.get(uuid, 0) for each in self.state.servers)
                assert booked <= self.gpu_limits.max_vram_bytes, "more than max_vram is booked"
        assert self.state.gpus.state is not GpuState.ASLEEP, "a load wakes the GPUs before it is placed"
        constraints = server.model.constraints
        if not server.placement.is_on_cpu:
            missing = {gpu.uuid for gpu in self.state.gpus.missing}
            assert not missing & set(server.placement.uuids), "a card that is set aside is not used"
            assert constraints.min_gpus <= len(server.placement.uuids) <= (constraints.max_gpus or 99)
            assert not constraints.gpus or set(server.placement.uuids) <= set(constraints.gpus)
            assert not set(server.placement.uuids) & set(constraints.exclude)
        elif constraints.min_gpus and self.state.limits.cpu_fallback is CpuFallback.NEVER:
            raise AssertionError("cpu_fallback never")

    def check(self) -> None:
        super().check()
        for uuid, total in self.cards.items():
            assert sum(s.booked.get(uuid, 0) for s in self.state.servers) <= total, f"{uuid} is over-committed"

    def check_booking(self, event: ev.Projected) -> None:
        server = self.state.server(event.server)
        if server is None or server.state is not ServerState.STARTING:
            return
        if not server.booked.keys() <= {CPU, *(gpu.uuid for gpu in self.state.gpus.gpus)}:
            return  # the memory of a missing GPU is unknown
        assert server.booked == event.needs, "a start that continues is booked as reported"
        for uuid in server.booked.keys() & self.cards.keys():
            ours = sum(self.will_hold_on(each, uuid) for each in self.state.servers)
            assert self.others_by_gpu_when_read[uuid] + ours <= self.cards[uuid], (
                "a start that needs too much must not continue"
            )

    # --- helpers -----------------------------------------------------------------------------------------

    def command(self, kind: Callable[..., ev.Event], ticket: int, model: Model, at: float, deadline: float) -> ev.Event:
        needed = () if kind is ev.Unload else (eight_layers(self.contexts[model.name], model.constraints),)
        return self.in_conversation(kind(ticket, model, at, deadline, *needed))

    def projection(self, server: Server) -> dict[str, int]:
        factor = self.random.choice([0.7, 1, 1, 1.1, 1.6])
        return {device: int(size * factor) for device, size in server.booked.items()}

    def measurement(self, server: Server) -> dict[str, int]:
        return {device: int(size * 0.65) for device, size in server.booked.items()}

    def gpus(self) -> GpuSnapshot:
        """What NVML shows: a loading server holds any part of its booking, a ready one all of it."""
        chance = self.random
        if chance.random() < 0.02:
            self.away = chance.choice([None, None, *self.cards])
        if chance.random() < 0.05:
            self.others_by_gpu = {
                uuid: int(chance.choice([0, 0, 0.3, 0.8]) * total) for uuid, total in self.cards.items()
            }
        self.releasing = [each for each in self.releasing if each[0] > self.now]
        held = {s.id: self.on_cards(s) for s in self.state.servers}
        gpus = []
        for index, (uuid, total) in enumerate(self.cards.items()):
            away = sum(size for _, on, size in self.releasing if on == uuid)
            booked = sum(s.booked.get(uuid, 0) for s in self.state.servers)
            self.others_by_gpu[uuid] = max(0, min(self.others_by_gpu[uuid], total - booked - away))
            free = max(0, total - self.others_by_gpu[uuid] - away - sum(each.get(uuid, 0) for each in held.values()))
            shown = (
                {s.id: held[s.id][uuid] for s in self.state.servers if uuid in held[s.id]} if self.shows_pids else {}
            )
            if uuid != self.away:
                gpus.append(Gpu(uuid, index, "card", total_bytes=total, free_bytes=free, processes=shown))
        self.others_by_gpu_when_read, self.on_cards_when_read = dict(self.others_by_gpu), held
        self.polled_at = self.now
        missing = (MissingGpu(self.away, 9, "card", "lost"),) if self.away and gpus else ()
        state, expected = (GpuState.OK, "") if gpus else (GpuState.LOST, "they were here")
        return GpuSnapshot(state, self.now, tuple(gpus), missing, expected=expected, poll_seconds=1.0)

    def on_cards(self, server: Server) -> dict[str, int]:
        """What the server holds on GPUs: while it loads more and more, never less than before."""
        before = self.on_cards_when_read.get(server.id, {})
        share = 1.0 if server.ready_at is not None else self.random.random()
        return {
            uuid: max(min(before.get(uuid, 0), size), int(size * share))
            for uuid, size in server.booked.items()
            if uuid in self.cards
        }

    def will_hold_on(self, server: Server, uuid: str) -> int:
        """All that is booked, except that a stopped load does not grow any more."""
        ended = server.state is ServerState.STOPPING and server.ready_at is None
        booked = server.booked.get(uuid, 0)
        return self.on_cards_when_read.get(server.id, {}).get(uuid, booked) if ended else booked


@pytest.mark.seeds(4)  # six others in make test-extra
def test_random_histories_on_gpus(seed: int):
    for history in range(seed * HISTORIES, (seed + 1) * HISTORIES):
        try:
            GpuWorld(history).play()
        except AssertionError as error:
            raise AssertionError(f"GpuWorld({history}): {error}") from error
