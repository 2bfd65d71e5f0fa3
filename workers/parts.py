"""The parts of a service, each made of the settings. What is built of them, and how they start: runtime.py."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import platformdirs

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.launch import EngineFacts, EngineKind
from app.entities.model import Replicas
from app.entities.server import Server
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import ModelShape, model_shape
from app.use_cases.placement.usable_gpus import names_nothing
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.pool_state import Limits, PoolState
from workers.catalog.catalog import Catalog, Entry
from workers.catalog.demo_model import write_demo_model
from workers.catalog.model_headers import ModelHeaders
from workers.engine.binary import EngineNotFound, engine_environment, find_engine, why_no_cuda
from workers.gpu.evidence import SeenGpus
from workers.gpu.nvml import Nvml
from workers.gpu.poller import GpuPoller
from workers.measurement.history import History
from workers.pinned import Pins, needs_of_pinned
from workers.pool.needs import EstimateSource
from workers.pool.pool import Process
from workers.server import affinity
from workers.server.kept_cache import KeptCaches
from workers.server.llama_server import Launcher
from workers.server.orphans import PidRecords
from workers.server.slot_files import SlotFiles
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

NAME = "llama-smart-proxy"
PINS_SECONDS = 5.0  # of the start, for the first reading of the GPUs: the engine is asked, too


def version() -> str:
    """The installed version, or "unknown" when running from a tree that was never installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


def state_folder() -> Path:
    """Where what must outlive the process is kept; under systemd, its StateDirectory."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else platformdirs.user_state_path(NAME)


def cache_folder() -> Path:
    """Where what can be made again is kept; under systemd, its CacheDirectory."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else platformdirs.user_cache_path(NAME)


def catalog_of(settings: Settings, shapes: ModelHeaders[ModelShape] | None = None) -> Catalog:
    """What may be asked for under these settings, scanned. `shapes` keeps what is read of the headers."""
    folders = models_folders(settings)
    return Catalog(
        folders,
        settings.launch_of(),
        hub_cache(settings),
        entries(settings),
        settings.folder,
        shapes,
        settings.constraints_of(),
    )


def errors_about_the_cpu(settings: Settings) -> list[str]:
    """Why the service cannot keep to the CPU it is to keep to."""
    cpu = settings.server.cpu
    return [f"server.cpu: {why}"] if cpu is not None and (why := affinity.why_not(cpu)) else []


def look_at_pins(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a start would find out about the pinned models, without one: errors, and what may go wrong. The GPUs are
    read, and what loads took."""
    engine, _ = engine_of(settings)
    limits, file, shapes = limits_of(settings, engine), state_folder() / "history.sqlite3", ModelHeaders(model_shape)
    store, history = StateStore(PoolState(limits)), History(file)
    if file.exists():
        history.start()
    needs = EstimateSource(history, engine, shapes)
    pins = Pins(store, needs_of_pinned(settings.pinned, catalog_of(settings, shapes), needs), limits)
    poller = gpu_poller(settings, store, engine, pins.look)
    if poller is not None:
        poller.start()
    first_look(pins, store, poller)
    if poller is not None:
        poller.close()
    return pins.errors, () if pins.errors else store.pins


def first_look(pins: Pins, store: StateStore, poller: GpuPoller | None) -> None:
    """Where it is certain by now. Otherwise /health says it, once the GPUs are known."""
    if poller is None:
        pins.look(store.gpus)
    if not pins.wait(PINS_SECONDS):
        said = "; ".join(store.gpus.complaints) or store.gpus.problem
        log.warning("whether the pinned models fit together is not known yet: %s", said)


def has_models(settings: Settings) -> bool:
    """Whether the configuration names models, or folders of them."""
    return bool(settings.catalog.models_dirs or settings.models)


def entries(settings: Settings) -> list[Entry]:
    """The models that the configuration names, for the catalogue."""
    return [
        Entry(
            name=name,
            launch=settings.launch_of(name),
            path=model.path,
            repo=model.repo,
            aliases=tuple(model.aliases),
            mmproj=model.mmproj,
            ttl_seconds=model.ttl_seconds,
            constraints=settings.constraints_of(name),
            pin=model.pin,
            priority=model.priority,
            keep_kv_cache=model.keep_kv_cache,
            replicas=Replicas(model.replicas.min, model.replicas.max),
        )
        for name, model in settings.models.items()
    ]


def hub_cache(settings: Settings) -> Path | None:
    """Where the Hugging Face libraries keep what they fetched, by their own rules; None: it is not looked at."""
    chosen = settings.catalog.hugging_face.cache
    if chosen == "off":
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE if chosen == "auto" else chosen)


def models_folders(settings: Settings) -> list[Path]:
    """The configured folders, or one with the demo model when nothing is configured."""
    if has_models(settings):
        return list(settings.catalog.models_dirs)
    folder = cache_folder() / "demo"
    try:
        return [write_demo_model(folder).parent]
    except OSError as error:
        raise OSError(
            f"the demo model cannot be written to {folder} ({error.strerror}); give --models-dir DIR"
        ) from error


def engine_of(settings: Settings) -> tuple[EngineFacts | None, str]:
    try:
        engine = find_engine(settings.engine.binary)
    except EngineNotFound as error:
        log.error("no engine: %s", error)
        return None, str(error)
    log.info("engine kind=%s version=%s command=%s", engine.kind, engine.version, engine.command[-1])
    return engine, ""


def limits_of(settings: Settings, engine: EngineFacts | None) -> Limits:
    scheduling = settings.scheduling
    return Limits(
        max_waiting=scheduling.max_waiting,
        max_waiting_per_model=scheduling.max_waiting_per_model,
        max_loaded=scheduling.max_loaded,
        max_wait_seconds=scheduling.max_wait_seconds,
        min_residency_seconds=scheduling.min_residency_seconds,
        ttl_seconds=scheduling.ttl_seconds,
        stall_timeout_seconds=scheduling.stall_timeout_seconds,
        notice_in_silence_seconds=_notice_in_silence_seconds(engine),
        rules=settings.rules(),
        policy=settings.policy(),
        cpu_fallback=settings.gpu.cpu_fallback,
    )


def _notice_in_silence_seconds(engine: EngineFacts | None) -> float:
    """llama-server looks for a closed connection once a second; the embedded one (11549) not at all beside other
    requests, and it is quick to start again."""
    return 0.05 if engine is not None and engine.kind is EngineKind.EMBEDDED else 5.0


def launcher(
    settings: Settings,
    engine: EngineFacts | None,
    records: PidRecords,
    history: History,
    needs: EstimateSource,
    store: StateStore,
    slots: SlotFiles,
) -> Callable[[Server, Callable[[ev.Event], None]], Process]:
    if engine is None:
        return _no_engine
    env = engine_environment(settings.engine.env)
    stop_seconds = settings.server.stop_seconds
    caches = KeptCaches(slots, engine, env)
    return Launcher(engine, env, records, history, needs.as_started, lambda: store.gpus, stop_seconds, caches).spawn


def gpu_poller(
    settings: Settings, store: StateStore, engine: EngineFacts | None, post: Callable[[GpuSnapshot], None]
) -> GpuPoller | None:
    """None: GPUs are not to be used, and the snapshot says so."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not settings.gpu.enabled or names_nothing(visible):
        problem = f"CUDA_VISIBLE_DEVICES={visible} hides all" if settings.gpu.enabled else "gpu.enabled is false"
        store.gpus = GpuSnapshot(GpuState.DISABLED, time.monotonic(), problem=problem)
        log.info("GPUs are not used: %s", problem)
        return None
    seen = SeenGpus(state_folder() / "gpus.json")
    can_use: Callable[[], str] = (
        partial(why_no_cuda, engine, settings.engine.env)
        if engine is not None and not settings.engine.assume_gpu
        else lambda: ""
    )
    return GpuPoller(store, Nvml(visible).read_gpus, seen, settings.gpu.poll_seconds, can_use=can_use, post=post)


def _no_engine(server: Server, post: Callable[[ev.Event], None]) -> Process:
    raise OSError("there is no engine")  # the routes refuse before it comes to this
