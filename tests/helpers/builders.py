"""Builds values for tests, with defaults for everything a test does not care about."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any

from app.entities.gguf_names import parse_part_name
from app.entities.launch import EngineFacts, EngineKind, LaunchSettings, ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate, MemoryReading
from app.entities.model import Model
from app.entities.placement import CPU, Placement, PlacementConstraints
from app.entities.server import Server
from app.use_cases.model_shape.shape import ModelShape, model_shape
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided, Effect, ReadMemory, Spawn
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at, record_and_settle, step
from app.use_cases.scheduling.steady import grant_or_release
from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, Typed, a_file, a_header
from workers.gguf.constants import ValueType
from workers.gguf.header import read_header

MIB = 1024**2
GIB = 1024**3
NO_CONSTRAINTS = PlacementConstraints()


def a_model(name: str = "a", gib: float = 1.0, slots: int = 2) -> Model:
    return Model(name, f"/models/{name}.gguf", int(gib * GIB), 1_700_000_000, a_launch(parallel=slots))


def a_launch(**changes: Any) -> LaunchSettings:
    """Launch settings with these fields, of their own or of their options."""
    own = {each.name for each in fields(LaunchSettings)}
    options = replace(LaunchSettings().options, **{key: each for key, each in changes.items() if key not in own})
    return LaunchSettings(options, **{key: each for key, each in changes.items() if key in own})


GGUF_BYTES = 320  # default size of `a_gguf`


def a_gguf(path: Path, size_bytes: int = GGUF_BYTES, version: int = 3, tensors: int = 1) -> Path:
    """Write a complete model file of one layer with little metadata; the last tensor is sparse and fills up the size.

    Creates parent folders. A file name of a split model's part makes it such a part, "mmproj" in it a projector.
    """
    metadata: dict[str, Any] = dict(PROJECTOR if "mmproj" in path.name.lower() else TINY)
    number, parts = 1, 1
    if part := parse_part_name(path.name):
        _, number, parts = part
        metadata |= {"split.no": number - 1, "split.count": parts}  # llama.cpp reads 16 bits
        metadata |= {"split.tensors.count": Typed(ValueType.INT32, parts * tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        infos = [Info(f"t{number}.{each}") for each in range(tensors)]
        spare = (size_bytes - len(a_file(metadata, infos, version=version))) // 32 * 32
        if tensors and size_bytes > GGUF_BYTES:
            infos[-1] = Info(infos[-1].name, (8 + spare // 4,))
        file.write(a_header(metadata, infos, version=version))
        file.truncate(size_bytes)
    return path


def an_engine(*flags: str) -> EngineFacts:
    return EngineFacts(EngineKind.BINARY, ("/bin/llama-server",), "1 (abc)", "id", frozenset(flags))


def memory(
    at: float, available_gib: float = 16.0, total_gib: float = 16.0, held: dict[int, float] | None = None
) -> MemoryReading:
    held_bytes = {server: int(gib * GIB) for server, gib in (held or {}).items()}
    return MemoryReading(int(total_gib * GIB), int(available_gib * GIB), at, held_bytes)


class Play:
    """The scheduler, event by event; its effects are collected. Memory is read as soon as it is requested.

    Without `checks_liveness` no time is due for checks of busy servers.
    """

    def __init__(
        self,
        limits: SchedulingLimits | None = None,
        total_gib: float = 16.0,
        answers_readings: bool = True,
        checks_liveness: bool = False,
    ) -> None:
        limits = limits or SchedulingLimits()
        self.state = PoolState(limits if checks_liveness else replace(limits, hang_timeout_seconds=inf))
        self.effects: list[Effect] = []
        self.decided: list[Decided] = []
        self._total_gib = total_gib
        self.answers_readings = answers_readings
        self._ticket = 0

    def post(self, *events: ev.Event) -> list[Effect]:
        """The effects of these events, except readings and decisions."""
        others: list[Effect] = []
        for event in events:
            queue = [event]
            while queue:
                happened = queue.pop(0)
                effects = self.stepped(self.state, happened)
                for effect in effects:
                    if answer := self.answer(effect, happened.at):
                        queue.append(answer)
                    elif isinstance(effect, Decided):
                        self.decided.append(effect)
                    else:
                        others.append(effect)
        self.effects += others
        return others

    def stepped(self, before: PoolState, event: ev.Event) -> list[Effect]:
        self.state, effects = step(before, event)
        assert_steady_step_equals_usual_step(before, event)
        return effects

    def answer(self, effect: Effect, at: float) -> ev.Event | None:
        """The event that answers an effect at once."""
        if not isinstance(effect, ReadMemory) or not self.answers_readings:
            return None
        return ev.MemoryRead(memory(at, self.available_gib, self._total_gib, self.held_gib), at)

    @property
    def held_gib(self) -> dict[int, float]:
        """Ready servers hold what was booked, loading ones nothing yet."""
        return {s.id: s.booked[CPU] / GIB for s in self.state.servers if s.port}

    @property
    def available_gib(self) -> float:
        """What a reading would show."""
        return self._total_gib - sum(self.held_gib.values())

    def ask(
        self, model: Model, at: float = 0.0, patience: float = 300.0, command: Callable[..., ev.Event] = ev.Acquire
    ) -> list[Effect]:
        """Post a new request: an Acquire, or the given `command` (Load, Unload). Tickets count up from 1."""
        self._ticket += 1
        return self.post(a_command(command, self._ticket, model, at, at + patience))

    def up(self, model: Model, at: float = 0.0) -> int:
        """Load the model; returns the id of its idle server."""
        effects = self.ask(model, at)
        server = next(e.server for e in effects if isinstance(e, Spawn))
        self.post(ev.Ready(server.id, 9000 + server.id, at), ev.Release(self._ticket, at))
        return server.id

    def up_without_readings(self, model: Model) -> None:
        """As `up`, in a play that does not answer readings."""
        self.ask(model)
        self.post(ev.MemoryRead(memory(at=0.0), at=0.0), ev.Ready(1, 9001, at=0.0), ev.Release(self._ticket, at=0.0))


def a_command(command: Callable[..., ev.Event], ticket: int, model: Model, at: float, deadline: float) -> ev.Event:
    """An Acquire or Load that needs the memory suggested by the model's file size; an Unload; or a partial of one."""
    if getattr(command, "func", command) is ev.Unload:
        return command(ticket, model, at, deadline)
    return command(ticket, model, at, deadline, a_placement_request(booked(model), model.constraints))


@functools.cache
def a_placement_request(size_bytes: int, constraints: PlacementConstraints = NO_CONSTRAINTS) -> PlacementRequest:
    """A placement request for a model that needs this many bytes, of RAM or of one GPU."""

    def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        memory = DeviceMemory(weights_bytes=size_bytes)
        on_gpu = Estimate((memory,), DeviceMemory(), Confidence.EXACT)
        return on_gpu if options.devices else Estimate((), memory, Confidence.EXACT)

    return PlacementRequest(tiny_shape(), ModelOptions(ctx_size=4096), estimate, constraints)


@functools.cache
def tiny_shape() -> ModelShape:
    with tempfile.TemporaryDirectory() as folder:
        return model_shape(read_header(str(a_gguf(Path(folder) / "tiny.gguf"))))


def a_server(model: Model, size_bytes: int, **more: Any) -> Server:
    """A server that is loading on the CPU."""
    placement = on_the_cpu(size_bytes)
    return replace(Server(1, model, placement, placement.booked_bytes, 0.0, last_used=0.0, progress_at=0.0), **more)


def on_the_cpu(size_bytes: int) -> Placement:
    memory = DeviceMemory(weights_bytes=size_bytes)
    return Placement((CPU,), (), 0, 4096, 0, Estimate((), memory, Confidence.EXACT))


def booked(model: Model) -> int:
    """Bytes that plays book for a model: its file size plus 15 %."""
    return model.size_bytes * 115 // 100


__all__ = [
    "GGUF_BYTES",
    "GIB",
    "MIB",
    "Play",
    "a_command",
    "a_gguf",
    "a_model",
    "a_placement_request",
    "a_server",
    "an_engine",
    "booked",
    "memory",
    "on_the_cpu",
    "replace",
    "tiny_shape",
]


def assert_steady_step_equals_usual_step(before: PoolState, event: ev.Event) -> None:
    """Check that a step without passes equals one with them, unless something else is due too (left to the Tick)."""
    steady = grant_or_release(before, event)
    due = due_at(steady[0]) if steady else None
    if steady and (due is None or event.at < due):
        assert steady == record_and_settle(before, event)
