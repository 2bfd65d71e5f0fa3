"""The composition root: settings in, a running service out. The one place that knows every class."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from app.entities.gpu import GpuSnapshot
from app.entities.launch import Task
from app.entities.model import Model
from app.errors import ProxyError
from app.services import AccessPolicy, Services
from app.settings.configuration import ConfigurationError
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import model_shape
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.pool_state import PoolState
from workers.catalog.model_headers import ModelHeaders
from workers.clients.admission import AdmissionLimit, KeyRateLimits
from workers.clients.client_watch import ClientWatcher
from workers.gpu.ram import read_memory
from workers.measurement.history import History
from workers.parts import (
    catalog_of,
    engine_of,
    errors_about_the_cpu,
    first_look,
    gpu_poller,
    has_models,
    launcher,
    limits_of,
    state_folder,
    version,
)
from workers.pinned import Pins, needs_of_pinned
from workers.pool.needs import EstimateSource
from workers.pool.pool import Pool
from workers.relay.relay import Relay
from workers.relay.stream_mover import StreamMover
from workers.server import affinity
from workers.server.orphans import PidRecords
from workers.server.slot_files import SlotFiles
from workers.telemetry.access_log import AccessLog
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 2.0  # beyond stop_seconds: for the kernel to take back a killed process's memory


class Runtime:
    """The service behind the HTTP application: what starts with it and ends with it."""

    def __init__(self, settings: Settings) -> None:
        if errors := errors_about_the_cpu(settings):
            raise ConfigurationError(*errors)
        self._cpu = settings.server.cpu
        self._pinned = settings.pinned
        self._pins: Pins | None = None  # made before the threads that tell it something
        self._preloaded = [name for name, model in settings.models.items() if model.preload]
        engine, problem = engine_of(settings)
        self.has_models = has_models(settings)
        self._records = PidRecords(state_folder() / "servers")
        self._history = History(state_folder() / "history.sqlite3")
        self._limits = limits_of(settings, engine)
        self._store = StateStore(PoolState(self._limits))
        self._gpus = gpu_poller(settings, self._store, engine, self._gpus_polled)
        self._store.pool = replace(self._store.pool, gpus=self._store.gpus)
        self._clients = ClientWatcher()
        self._access_log = AccessLog()
        self._mover = StreamMover(settings.upstream.stall_seconds, settings.upstream.stall_seconds)
        shapes = ModelHeaders(model_shape)
        self._catalog = catalog_of(settings, shapes)
        self._needs = needs = EstimateSource(self._history, engine, shapes)
        self._slots = SlotFiles(state_folder() / "slots", settings.scheduling.kv_cache_disk)
        spawn = launcher(settings, engine, self._records, self._history, needs, self._store, self._slots)
        gauges = Gauges(self._store, version())
        self._relay = relay = Relay(
            *(settings.upstream.first_byte_seconds, settings.upstream.stall_seconds, self._mover),
            lambda: self._store.pool.closing,
        )
        count = gauges.pool.stepped
        self._pool = Pool(
            self._store, spawn, read_memory, self._read_gpus, needs.placement_request, count, relay.forget
        )
        self.services = Services(
            catalog=self._catalog,
            store=self._store,
            pool=self._pool,
            relay=relay,
            clients=self._clients,
            admission=AdmissionLimit(settings.server.threads - settings.server.reserve_threads),
            rates=KeyRateLimits(),
            access_log=self._access_log,
            gauges=gauges,
            engine=engine,
            engine_problem=problem,
            access_policy=AccessPolicy(
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
        self._access_log.start()
        self._clients.start()
        self._mover.start()
        if self._pinned:  # read once it is known what earlier loads took
            self._pins = Pins(self._store, needs_of_pinned(self._pinned, self._catalog, self._needs), self._limits)
        if self._gpus is not None:
            self._gpus.start()
        if self._pins is not None:
            first_look(self._pins, self._store, self._gpus)
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
        return self._needs.placement_request(model).task

    def begin_drain(self) -> None:
        """Nothing new from here on: waiting requests are refused, running streams run on."""
        self._pool.post(ev.Drain(time.monotonic()))

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the last running request has ended. False when `timeout` seconds were not enough."""
        return self._pool.wait_until(lambda s: s.draining and not any(each.leases for each in s.servers), timeout)

    def close(self, timeout: float) -> None:
        """Stop every llama-server; those that do not end in `timeout` seconds are killed."""
        self._pool.post(ev.Close(time.monotonic()))
        if not self._pool.wait_until(lambda s: s.closing and not s.servers, timeout + STOP_GRACE_SECONDS):
            log.error("llama-servers did not end; killing them")
            self._pool.kill()
        self._relay.close()
        self._access_log.flush()
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
        self._pool.post(ev.GpusPolled(gpus, time.monotonic()))

    def reload(self) -> None:
        """Look for models again. Running servers and streams are not touched."""
        self._catalog.reload()
