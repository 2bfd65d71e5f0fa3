"""Launcher: starts llama-servers, each on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineFacts, EngineKind, OwnEngine
from app.entities.load import LoadReport
from app.entities.model import Model
from app.entities.placement import Placement
from app.entities.server import Server
from app.use_cases.launch.command_line import VULKAN_VARIABLE
from app.use_cases.launch.load_mode import LoadChoice
from app.use_cases.scheduling import events as ev
from workers.logs.engine_log import EngineLogs
from workers.measurement.history import History
from workers.measurement.measurement import Measurement
from workers.measurement.model_history import start_of
from workers.server.kept_cache import KeptCaches
from workers.server.llama_server import LlamaServer
from workers.server.orphans import PidRecords


@dataclass
class Launcher:
    """Starts llama-servers. `engine` returns the engine of a model as it is now, which may take seconds, or raises
    OSError; `as_started` returns a model with the settings it is really started with, `gpus` the last snapshot of the
    GPUs."""

    engine: Callable[[OwnEngine | None], EngineFacts]
    env: Mapping[str, str]  # the whole environment of the processes
    records: PidRecords
    history: History
    as_started: Callable[[Model], Model]
    remarks: Callable[[Model], Iterable[str]]  # what in its settings has no effect on a model
    choose_load_mode: Callable[[Model, Placement, EngineFacts], LoadChoice]
    note_load: Callable[[LoadReport, Server], None]
    gpus: Callable[[], GpuSnapshot]
    stop_seconds: float
    caches: KeptCaches
    logs: EngineLogs
    # Of models that did not start with what the placement had them draft with: the path, and the engine's identity.
    # Servers' threads only add, here and to the next one.
    not_drafting: set[tuple[str, str]] = field(default_factory=set)
    need_fixed_ports: set[str] = field(default_factory=set)  # identities of engines that cannot choose a port

    def spawn(self, server: Server, post: Callable[[ev.Event], None]) -> LlamaServer:
        """Start a server on its own thread, which posts Spawned, Projected, Progress, Ready, Measured, and always
        Exited at the end. Raises RuntimeError if no thread can be started."""
        process = LlamaServer(self, server, post)
        process.start()
        return process

    def environment(self, server: Server) -> Mapping[str, str]:
        """For a server on the CPU without Vulkan's devices: an engine would compute long prompts there, unbooked. Where
        there is no NVIDIA GPU, Vulkan is left as it is."""
        gpus = self.gpus().seen_by(server.model.launch.engine)
        is_hidden = server.placement.is_on_cpu and gpus.uses_vulkan
        return {**self.env, VULKAN_VARIABLE: ""} if is_hidden else self.env

    @staticmethod
    def must_use_gpus(server: Server, engine: EngineFacts) -> bool:
        """Whether it was placed on GPUs. The embedded engine has none of its own; only tests place it there."""
        return not server.placement.is_on_cpu and engine.kind is not EngineKind.EMBEDDED

    def measurement(self, server: Server, engine: EngineFacts, post: Callable[[ev.Event], None]) -> Measurement:
        """For one attempt to start the server."""
        start = start_of(server.model, engine, server.placement.names)
        return Measurement(server, start, self.history, post, logs_json="--log-jsonl" in engine.flags)
