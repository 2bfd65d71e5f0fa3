"""The scheduler on simulated GPUs: their memory follows the servers, as NVML would show it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.entities.gpu import EngineView, Gpu, GpuSnapshot, GpuState
from app.entities.launch import ModelOptions, OwnEngine
from app.entities.memory import Estimate
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.entities.server import Server
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape, model_shape
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, ReadGpus, Spawn
from app.use_cases.scheduling.limits import SchedulingLimits
from tests.helpers.builders import GIB, Play, a_model
from tests.helpers.gguf_bytes import Info, a_header
from workers.gguf.header import read_header

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 8,
    "llama.context_length": 65536,
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14336,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}
NO_CONSTRAINTS = PlacementConstraints()


def eight_layers_file(path: Path) -> Path:
    """Write a sparse model file with eight layers of 416 MiB and 2 x 250 MiB of vocabulary."""
    infos = [Info("token_embd.weight", (4096, 32000), 1), Info("output.weight", (4096, 32000), 1)]
    for il in range(8):
        infos += [Info(f"blk.{il}.{name}.weight", (4096, 14336), 1) for name in ("ffn_gate", "ffn_up", "ffn_down")]
        infos += [Info(f"blk.{il}.{name}.weight", (4096, 4096), 1) for name in ("attn_q", "attn_output")]
    head = a_header(METADATA, infos)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(2 * info.shape[0] * info.shape[1] for info in infos) + 4096)
    return path


@functools.cache
def eight_layer_shape() -> ModelShape:
    with tempfile.TemporaryDirectory() as folder:
        return model_shape(read_header(str(eight_layers_file(Path(folder) / "m.gguf"))))


@functools.cache
def _estimate(options: ModelOptions, _: tuple[str, ...]) -> Estimate:
    return estimate_memory(eight_layer_shape(), options)


@functools.cache
def eight_layers(ctx_size: int = 4096, constraints: PlacementConstraints = NO_CONSTRAINTS) -> PlacementRequest:
    """A model with eight layers: about 4.5 GiB on one GPU with a context of 4k, 2 GiB more with 64k."""
    return PlacementRequest(eight_layer_shape(), ModelOptions(ctx_size=ctx_size), _estimate, constraints)


@dataclass
class Hardware:
    """GPUs by UUID: GiB of each, and GiB used by other processes."""

    total_gib: dict[str, float]
    other_gib: dict[str, float] = field(default_factory=dict)
    late_gib: dict[str, float] = field(default_factory=dict)  # being released by processes that have ended
    shows_pids: bool = True
    state: GpuState = GpuState.OK
    engine_problem: str = ""
    expected: str = ""
    views: dict[OwnEngine | None, EngineView] = field(default_factory=dict)

    def snapshot(self, servers: tuple[Server, ...], at: float) -> GpuSnapshot:
        """Ready servers hold what was booked, loading ones nothing yet."""
        gpus = []
        for index, (uuid, total) in enumerate(self.total_gib.items()):
            held = {s.pid or 0: s.booked[uuid] for s in servers if uuid in s.booked and s.ready_at is not None}
            away = int((self.other_gib.get(uuid, 0) + self.late_gib.get(uuid, 0)) * GIB)
            free = int(total * GIB) - away - sum(held.values())
            processes = dict(held) if self.shows_pids else {}
            gpus.append(Gpu(uuid, index, "card", total_bytes=int(total * GIB), free_bytes=free, processes=processes))
        found = tuple(gpus) if self.state is GpuState.OK else ()
        said = GpuSnapshot(self.state, at, found, engine_problem=self.engine_problem, expected=self.expected)
        return replace(said, views=self.views, poll_seconds=1.0)


class GpuPlay(Play):
    """As Play; with `answers_polls` False, requested GPU readings never arrive."""

    def __init__(self, hardware: Hardware, limits: SchedulingLimits | None = None, answers_polls: bool = True) -> None:
        super().__init__(limits, total_gib=64)
        self.hardware = hardware
        self.answers_polls = answers_polls
        self.polls = 0

    def answer(self, effect: Effect, at: float) -> ev.Event | None:
        if isinstance(effect, ReadGpus):
            self.polls += 1
            return self.polled(at) if self.answers_polls else None
        return super().answer(effect, at)

    def polled(self, at: float) -> ev.GpusPolled:
        return ev.GpusPolled(self.hardware.snapshot(self.state.servers, at), at)

    def request(
        self,
        name: str,
        at: float = 0.0,
        ctx_size: int = 4096,
        constraints: PlacementConstraints = NO_CONSTRAINTS,
        patience: float = 300.0,
        command: Callable[..., ev.Event] = ev.Acquire,
        engine: OwnEngine | None = None,
    ) -> list[Effect]:
        """Post a new request, half a second after a poll of the GPUs."""
        if self.answers_polls and self.hardware.total_gib:
            self.post(self.polled(at - 0.5))
        self._ticket += 1
        model: Model = replace(a_model(name), constraints=constraints)
        model = replace(model, launch=replace(model.launch, engine=engine))
        needs = replace(eight_layers(ctx_size, constraints), engine=engine)
        return self.post(command(self._ticket, model, at, at + patience, needs))

    def loaded(self, name: str, at: float = 0.0, **options: object) -> Server:
        """Load the model; returns its idle server."""
        server = next(e.server for e in self.request(name, at, **options) if isinstance(e, Spawn))  # type: ignore[arg-type]
        ticket = self._ticket
        self.post(ev.Spawned(server.id, 1000 + server.id, at), ev.Ready(server.id, 9000 + server.id, at))
        self.post(ev.Release(ticket, at))
        return server
