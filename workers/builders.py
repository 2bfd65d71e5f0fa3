"""Builds the parts of the service from the settings. runtime.py connects and starts them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from app.entities.gpu import NOT_READ, Gpu, GpuSnapshot, GpuState
from app.entities.launch import EngineFacts, OwnEngine
from app.entities.server import Server
from app.settings.schema import Settings
from app.use_cases.placement.engine_gpus import EngineProbe
from app.use_cases.placement.usable_gpus import hides_all_gpus
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.decision_inputs import spare_ram_bytes
from workers.engine.current_engine import CurrentEngine, Report
from workers.engine.engines import Engines
from workers.engine.gpu_probe import listed_memory, probe_gpus
from workers.engine.probe_process import engine_environment
from workers.engine_metrics.reader import EngineReader, Subject
from workers.engine_metrics.series import READ_SECONDS, EngineSeries
from workers.engine_metrics.slots import SLOTS_SECONDS, EngineSlots
from workers.folders import cache_folder, state_folder
from workers.gpu.engine_check import EngineCheck, assume_usable
from workers.gpu.expected_gpus import GpuHistory
from workers.gpu.nvml import Nvml
from workers.gpu.poller import GpuPoller
from workers.model_files.load_choices import LoadChoices
from workers.model_files.load_log import LoadLog
from workers.pool.estimate_source import EstimateSource
from workers.pool.pool import Pool
from workers.pool.processes import Process
from workers.relay.relay import Relay
from workers.relay.stream_mover import StreamMover
from workers.server.kept_cache import KeptCaches
from workers.server.launcher import Launcher
from workers.server.orphans import MARK_VARIABLE
from workers.state_files import StateFiles
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

Spawn = Callable[[Server, Callable[[ev.Event], None]], Process]


def build_engines(settings: Settings, replaced: Callable[[], None] = lambda: None) -> Engines:
    """Probes the service's engine, which takes seconds; one of a model when it is needed, or by `use`."""
    return Engines(build_engine(settings, replaced=replaced), partial(_own_engine, settings, replaced))


def _own_engine(settings: Settings, replaced: Callable[[], None], own: OwnEngine, report: Report) -> CurrentEngine:
    env = own_environment(settings.engine.env, own)
    return CurrentEngine(own.binary, replaced, cache_folder(), env, key="engine", report=report)


def build_engine(
    settings: Settings, own: OwnEngine | None = None, replaced: Callable[[], None] = lambda: None
) -> CurrentEngine:
    """The engine of a model; `own` None: the service's. Probes it: takes seconds."""
    if own:
        return _own_engine(settings, replaced, own, log.error)
    return CurrentEngine(settings.engine.binary, replaced, cache_folder(), settings.engine.env)


def own_environment(env: Mapping[str, str], engine: OwnEngine | None) -> Mapping[str, str]:
    """`engine.env` for a model's own engine; None: for the service's."""
    return {**env, "LD_LIBRARY_PATH": engine.library_path} if engine and engine.library_path else env


def build_spawn(
    settings: Settings,
    engines: Engines,
    files: StateFiles,
    needs: EstimateSource,
    store: StateStore,
) -> Spawn:
    """The function that starts a llama-server for the pool."""
    env = engine_environment(settings.engine.env)
    return Launcher(
        engine=engines.working,
        env={**env, MARK_VARIABLE: files.records.mark},
        records=files.records,
        history=files.history,
        as_started=needs.as_started,
        remarks=needs.remarks,
        choose_load_mode=LoadChoices(lambda: spare_ram_bytes(store.pool)).choose,
        note_load=LoadLog(files.load_rates).note,
        gpus=lambda: store.gpus,
        stop_seconds=settings.server.stop_seconds,
        caches=KeptCaches(files.slots, env),
        logs=files.logs.engines,
    ).spawn


def build_relay(settings: Settings, store: StateStore, has_ended: Callable[[int], bool]) -> Relay:
    """`has_ended`: see Relay."""
    upstream = settings.upstream
    return Relay(
        upstream.first_byte_seconds,
        upstream.stall_seconds,
        StreamMover(upstream.stall_seconds, upstream.stall_seconds),
        is_closing=lambda: store.pool.closing,
        has_ended=has_ended,
        why_ended=lambda server: store.pool.endings.get(server),
    )


def build_engine_reader(pool: Pool, store: StateStore, gauges: Gauges) -> tuple[EngineReader, EngineSlots]:
    """What reads the engines' own metrics, which /metrics then shows, and the slots of those that are busy."""
    series = EngineSeries(lambda: store.pool.servers)
    gauges.add(series)
    slots = EngineSlots(lambda: store.pool.servers, lambda: reader.wake(), lambda: series.drafts)
    reader = EngineReader(
        pool.addresses,
        Subject("/metrics", READ_SECONDS, series.publish),
        Subject("/slots", SLOTS_SECONDS, slots.publish, slots.is_viewed, slots.is_busy),
    )
    return reader, slots


def gpus_at_start(settings: Settings) -> GpuSnapshot:
    """The snapshot before the first reading: not read yet, or disabled and why."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if settings.gpu.enabled and not hides_all_gpus(visible):
        return NOT_READ
    problem = f"CUDA_VISIBLE_DEVICES={visible} hides all" if settings.gpu.enabled else "gpu.enabled is false"
    log.info("GPUs are disabled: %s", problem)
    return GpuSnapshot(GpuState.DISABLED, time.monotonic(), problem=problem)


def build_gpu_poller(
    settings: Settings,
    engines: Engines,
    publish: Callable[[GpuSnapshot], None],
    may_sleep: Callable[[float], bool] = lambda now: False,
) -> GpuPoller:
    probed = _no_engine if settings.engine.assume_gpu else engines.service.refresh
    listed = partial(_listed_memory, probed, settings.engine.env)
    nvml = Nvml(os.environ.get("CUDA_VISIBLE_DEVICES"), settings.gpu.poll_seconds, listed)
    return GpuPoller(
        nvml.read_gpus,
        publish,
        GpuHistory(state_folder() / "gpus.json"),
        settings.gpu.poll_seconds,
        ask_engine=partial(_ask_engine, probed, settings.engine.env),
        engine_build=partial(_build_of, probed),
        own_engines=OwnChecks(settings, engines).in_use,
        may_sleep=may_sleep,
        close_nvml=nvml.close,
    )


class OwnChecks:
    """The checks of engines that models have of their own. Any thread may call it."""

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self._settings = settings
        self._engines = engines
        self._known: dict[OwnEngine, EngineCheck] = {}

    def in_use(self) -> dict[OwnEngine, EngineCheck]:
        return {engine: self._known.get(engine) or self._begin(engine) for engine in self._engines.in_use}

    def _begin(self, engine: OwnEngine) -> EngineCheck:
        """It is asked as the service's is."""
        settings = self._settings.engine
        probed = _no_engine if settings.assume_gpu else partial(self._engines.refresh, engine)
        ask = partial(_ask_engine, probed, own_environment(settings.env, engine))
        return self._known.setdefault(engine, EngineCheck(ask, partial(_build_of, probed)))


def _no_engine() -> EngineFacts | None:
    """No engine is probed: GPUs are assumed to be usable."""
    return None


def _ask_engine(
    engine: Callable[[], EngineFacts | None], env: Mapping[str, str], gpus: Sequence[Gpu], between: Callable[[], None]
) -> EngineProbe:
    """Which GPUs the engine cannot use; none where that is assumed."""
    facts = engine()
    return probe_gpus(facts, env, gpus, between) if facts else assume_usable(gpus, between)


def _listed_memory(engine: Callable[[], EngineFacts | None], env: Mapping[str, str], uuid: str) -> int:
    facts = engine()
    return listed_memory(facts, env, uuid) if facts else 0


def _build_of(engine: Callable[[], EngineFacts | None]) -> str:
    facts = engine()
    return facts.identity if facts else ""
