"""The composition root: settings in, a running service out. The one place that knows every class."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import platformdirs

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.launch import EngineFacts, EngineKind, Task
from app.entities.model import Model, Replicas
from app.entities.server import Server
from app.errors import ProxyError
from app.services import Doors, Services
from app.settings.configuration import ConfigurationError
from app.settings.schema import Settings
from app.use_cases import events as ev
from app.use_cases.model_shape import ModelShape, model_shape
from app.use_cases.pool_state import Limits, PoolState
from app.use_cases.visible_gpus import names_nothing
from workers import affinity
from workers.access_log import AccessLog
from workers.catalog import Catalog, Entry
from workers.client_watch import ClientWatcher
from workers.demo_model import write_demo_model
from workers.engine import NoEngine, engine_environment, find_engine, why_no_cuda
from workers.gauges import Gauges
from workers.gpu_evidence import SeenGpus
from workers.gpu_poller import GpuPoller
from workers.history import History
from workers.kept_cache import KeptCaches
from workers.llama_server import Launcher
from workers.memory import read_memory
from workers.model_headers import ModelHeaders
from workers.needs import Needs
from workers.nvml import Nvml
from workers.orphans import PidRecords
from workers.pinned import Pins, needs_of_pinned
from workers.places import Places
from workers.pool import Pool, Process
from workers.rates import Rates
from workers.relay import Relay
from workers.slot_files import SlotFiles
from workers.state import StateStore
from workers.stream_mover import StreamMover

log = logging.getLogger(__name__)

NAME = "llama-smart-proxy"
PINS_SECONDS = 5.0  # of the start, for the first reading of the GPUs: the engine is asked, too
STOP_GRACE_SECONDS = 2.0  # beyond stop_seconds: for the kernel to take back a killed process's memory


class Runtime:
    """The service behind the HTTP application: what starts with it and ends with it."""

    def __init__(self, settings: Settings) -> None:
        if settings.server.cpu is not None and (why := affinity.why_not(settings.server.cpu)):
            raise ConfigurationError(f"server.cpu: {why}")
        self._cpu = settings.server.cpu
        self._pinned = settings.pinned
        self._pins: Pins | None = None  # made before the threads that tell it something
        self._preloaded = [name for name, model in settings.models.items() if model.preload]
        engine, problem = _engine(settings)
        self.has_models = has_models(settings)
        self._records = PidRecords(state_folder() / "servers")
        self._history = History(state_folder() / "history.sqlite3")
        self._limits = _limits(settings, engine)
        self._store = StateStore(PoolState(self._limits))
        self._gpus = _gpu_poller(settings, self._store, engine, self._gpus_polled)
        self._store.pool = replace(self._store.pool, gpus=self._store.gpus)
        self._clients = ClientWatcher()
        self._access = AccessLog()
        self._mover = StreamMover(settings.upstream.stall_seconds, settings.upstream.stall_seconds)
        shapes = ModelHeaders(model_shape)
        self._catalog = catalog_of(settings, shapes)
        self._needs = needs = Needs(self._history, engine, shapes)
        self._slots = SlotFiles(state_folder() / "slots", settings.scheduling.kv_cache_disk)
        spawn = _launcher(settings, engine, self._records, self._history, needs, self._store, self._slots)
        gauges = Gauges(self._store, version())
        relay = Relay(
            *(settings.upstream.first_byte_seconds, settings.upstream.stall_seconds, self._mover),
            lambda: self._store.pool.closing,
        )
        count = gauges.pool.stepped
        self._pool = Pool(self._store, spawn, read_memory, self._read_gpus, needs.asked, count, relay.forget)
        self.services = Services(
            catalog=self._catalog,
            store=self._store,
            pool=self._pool,
            relay=relay,
            clients=self._clients,
            places=Places(settings.server.threads - settings.server.reserve_threads),
            rates=Rates(),
            access=self._access,
            gauges=gauges,
            engine=engine,
            engine_problem=problem,
            doors=Doors(
                keys=settings.api_keys(),
                host=settings.server.host,
                loopback_only=settings.server.is_loopback and not settings.server.allow_open,
            ),
            max_body=settings.server.max_body,
            max_loaded=settings.scheduling.max_loaded,
            max_wait_seconds=settings.scheduling.max_wait_seconds,
            loading_comments=settings.scheduling.loading_comments,
            version=version(),
        )

    def start(self) -> None:
        """Sweep what an earlier life left behind, then let the threads run. After the fork: threads survive none.

        Raises ConfigurationError where it is certain that the pinned models do not fit together.
        """
        if killed := self._records.sweep():
            log.warning("killed orphans pids=%s", killed)
        self._slots.clean([model.name for model in self._catalog.models() if model.keep_kv_cache])
        if self._cpu is not None:
            affinity.keep_to(self._cpu)
        self._history.start()
        self._access.start()
        self._clients.start()
        self._mover.start()
        if self._pinned:  # read once it is known what earlier loads took
            self._pins = Pins(self._store, needs_of_pinned(self._pinned, self._catalog, self._needs), self._limits)
        if self._gpus is not None:
            self._gpus.start()
        if self._pins is not None:
            _look_at(self._pins, self._store, self._gpus)
            if self._pins.errors:
                raise ConfigurationError(*self._pins.errors)
        self._pool.start()
        self._catalog.start()
        if self._preloaded:
            threading.Thread(target=self._preload, name="preload", daemon=True).start()

    def _preload(self) -> None:
        """One after the other, each once the one before is on its way. What cannot be loaded is logged."""
        for name in self._preloaded:
            try:
                model = self._catalog.servable(self._catalog.find(name))
                self._pool.load(model, self.services.max_wait_seconds, self._clients.watch(None))
            except ProxyError as error:
                log.warning("not preloaded model=%s: %s", name, error)

    def task_of(self, model: Model) -> Task:
        """What the model is for. Raises the ProxyError of one that cannot be served."""
        return self._needs.asked(model).task

    def begin_drain(self) -> None:
        """Nothing new from here on: waiting requests are refused, running streams run on."""
        self._pool.tell(ev.Drain(time.monotonic()))

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the last running request has ended. False when `timeout` seconds were not enough."""
        return self._pool.wait_until(lambda s: s.draining and not any(each.leases for each in s.servers), timeout)

    def close(self, timeout: float) -> None:
        """Stop every llama-server; those that do not end in `timeout` seconds are killed."""
        self._pool.tell(ev.Close(time.monotonic()))
        if not self._pool.wait_until(lambda s: s.closing and not s.servers, timeout + STOP_GRACE_SECONDS):
            log.error("llama-servers did not end; killing them")
            self._pool.kill()
        self.services.relay.close()
        self._access.flush()
        if self._gpus is not None:
            self._gpus.close()
        self._history.close()

    def kill(self) -> None:
        """End every llama-server this instant; the process is about to exit."""
        self._pool.kill()

    def _read_gpus(self) -> None:
        if self._gpus is not None:
            self._gpus.read_now()

    def _gpus_polled(self, gpus: GpuSnapshot) -> None:
        if self._pins is not None:
            self._pins.look(gpus)
        self._pool.tell(ev.GpusPolled(gpus, time.monotonic()))

    def reload(self) -> None:
        """Look for models again. Running servers and streams are not touched."""
        self._catalog.reload()


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
        settings.wishes_of(),
    )


def look_at_pins(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a start would find out about the pinned models, without one: errors, and what may go wrong. The GPUs are
    read, and what loads took."""
    engine, _ = _engine(settings)
    limits, file, shapes = _limits(settings, engine), state_folder() / "history.sqlite3", ModelHeaders(model_shape)
    store, history = StateStore(PoolState(limits)), History(file)
    if file.exists():
        history.start()
    needs = Needs(history, engine, shapes)
    pins = Pins(store, needs_of_pinned(settings.pinned, catalog_of(settings, shapes), needs), limits)
    poller = _gpu_poller(settings, store, engine, pins.look)
    if poller is not None:
        poller.start()
    _look_at(pins, store, poller)
    if poller is not None:
        poller.close()
    return pins.errors, () if pins.errors else store.pins


def _look_at(pins: Pins, store: StateStore, poller: GpuPoller | None) -> None:
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
            wishes=settings.wishes_of(name),
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


def _engine(settings: Settings) -> tuple[EngineFacts | None, str]:
    try:
        engine = find_engine(settings.engine.binary)
    except NoEngine as error:
        log.error("no engine: %s", error)
        return None, str(error)
    log.info("engine kind=%s version=%s command=%s", engine.kind, engine.version, engine.command[-1])
    return engine, ""


def _limits(settings: Settings, engine: EngineFacts | None) -> Limits:
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


def _launcher(
    settings: Settings,
    engine: EngineFacts | None,
    records: PidRecords,
    history: History,
    needs: Needs,
    store: StateStore,
    slots: SlotFiles,
) -> Callable[[Server, Callable[[ev.Event], None]], Process]:
    if engine is None:
        return _no_engine
    env = engine_environment(settings.engine.env)
    stop_seconds = settings.server.stop_seconds
    caches = KeptCaches(slots, engine, env)
    return Launcher(engine, env, records, history, needs.as_started, lambda: store.gpus, stop_seconds, caches).spawn


def _gpu_poller(
    settings: Settings, store: StateStore, engine: EngineFacts | None, tell: Callable[[GpuSnapshot], None]
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
    return GpuPoller(store, Nvml(visible).read_gpus, seen, settings.gpu.poll_seconds, can_use=can_use, tell=tell)


def _no_engine(server: Server, tell: Callable[[ev.Event], None]) -> Process:
    raise OSError("there is no engine")  # the routes refuse before it comes to this
