"""The composition root: builds the service from the settings, starts it, and stops it. Knows every class.

Order of a start: kill llama-servers of an earlier run, read the history of loads, start the threads for access log,
clients and streams, read the GPUs, check that the pinned models fit, then start the pool and the catalogue's watch.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Sequence

from app.entities.launch import Task
from app.entities.model import Model
from app.errors import ProxyError
from app.services import Services
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import model_shape
from app.use_cases.reporting.reload_report import ModelChanges
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.read_ahead import file_to_read_ahead
from workers.build_catalog import build_catalog, has_models
from workers.build_downloads import ServiceMachine, build_downloads
from workers.build_gauges import build_gauges
from workers.build_limits import build_limits, build_request_settings
from workers.build_peers import build_peers, patience
from workers.builders import build_engine_reader, build_engines, build_relay, build_spawn, gpus_at_start
from workers.catalog.model_headers import ModelHeaders
from workers.clients.admission import KeyRateLimits, admission_limits
from workers.clients.audience_texts import AudienceTexts
from workers.clients.client_watch import ClientWatcher
from workers.folders import state_folder, version
from workers.gpu.ram import read_memory
from workers.gpu_watch import GpuWatch
from workers.model_files.read_ahead import ReadAhead
from workers.pool.estimate_source import EstimateSource
from workers.pool.gpu_names import GpuNamesCheck
from workers.pool.pinning import Pinning
from workers.pool.plans import Plans
from workers.pool.pool import Pool
from workers.pool.preload import begin_preload
from workers.pool.watchdog import status_line, watchdog_from
from workers.reload import CheckedConfiguration, ConfigurationReload, newly_preloaded
from workers.request_bodies.held_body import RequestBodies
from workers.startup_check import StartupCheck
from workers.state_files import StateFiles
from workers.telemetry.access_log import AccessLog
from workers.telemetry.activity import Activity
from workers.telemetry.pool_counts import count_each
from workers.telemetry.refusal_log import RefusalLog
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

# From the end of a process's connections to its own: it gives back what it holds on GPUs, which takes up to 1.5 s.
EXIT_SECONDS = 2.0
KILL_GRACE_SECONDS = 2.0  # beyond stop_seconds: the kernel needs time to free a killed process's memory


class Runtime:
    """The service behind the HTTP application: built by the constructor, run by `start`, ended by `begin_drain`,
    `wait_drained` and `close`."""

    def __init__(self, settings: Settings, refusals: RefusalLog) -> None:
        """`refusals`: its owner flushes it. Starts no thread, and no process but to probe the engine.

        Raises ConfigurationError and OSError."""
        self._settings = settings
        self._refusals = refusals
        self.has_models = has_models(settings)
        self._engines = engines = build_engines(settings, self._engine_replaced)
        engines.use(settings.own_engines())
        shapes = ModelHeaders(model_shape)
        self._files = StateFiles(state_folder(), settings)
        self._store = StateStore(PoolState(build_limits(settings, engines), gpus=gpus_at_start(settings)))
        self._catalog = build_catalog(settings, shapes)
        self._needs = EstimateSource(self._files.history, engines.refresh, shapes, lambda: self._store.gpus)
        self._plans = Plans(self._store, self._needs.placement_request, read_memory)
        machine = ServiceMachine(lambda: self._settings, self._needs, self._plans)
        self._downloads = build_downloads(lambda: self._settings, self._catalog.reload, machine)
        self._clients = ClientWatcher()
        self._access_log = AccessLog(self._files.logs.access_lines)
        self._activity = Activity()
        self._bodies = RequestBodies(settings.server.max_body, settings.server.max_bodies)
        self._relay = build_relay(settings, self._store, self._has_ended)
        self._peers = build_peers(settings, self._relay.mover)
        others = self._bodies, self._downloads, self._peers
        self._gauges = build_gauges(self._store, engines, self._files.tokens, *others)
        self._gpus = GpuWatch(settings, engines, self._store, lambda event: self._pool.post(event))
        self._read_ahead = ReadAhead(lambda: file_to_read_ahead(self._store.pool))
        self._pool = self._build_pool()
        self._engine_reader, self._engine_slots = build_engine_reader(self._pool, self._store, self._gauges)
        self._startup_check = StartupCheck(self._store, self._catalog, shapes, self._needs, engines)
        self._reload = ConfigurationReload(
            settings, self._store, self._catalog, self._startup_check.candidate, self._apply
        )
        self.services = self._build_services()

    def _build_pool(self) -> Pool:
        store, needs, gpus = self._store, self._needs, self._gpus
        return Pool(
            store,
            build_spawn(self._settings, self._engines, self._files, needs, store),
            read_memory,
            gpus.read_now,
            needs.placement_request,
            self._catalog.definition,
            on_step=count_each(self._gauges.count_step, self._activity.count_step, self._wake_read_ahead),
            on_server_ended=self._relay.forget,
            probe_engine=gpus.probe_engine,
        )

    def _wake_read_ahead(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None:
        if self._store.pool.evaluation is not before.evaluation:
            self._read_ahead.wake()

    def _build_services(self) -> Services:
        server, request_of = self._settings.server, self._needs.placement_request
        return Services(
            catalog=self._catalog,
            downloads=self._downloads,
            store=self._store,
            configuration=self._reload,
            pool=self._pool,
            plans=self._plans,
            pins=Pinning(self._store, self._catalog.models, request_of, read_memory, self._pool.post),
            relay=self._relay,
            peers=self._peers,
            clients=self._clients,
            **admission_limits(server.threads - server.reserve_threads),
            status_texts=AudienceTexts(),
            rates=KeyRateLimits(),
            tokens=self._files.tokens,
            bodies=self._bodies,
            access_log=self._access_log,
            logs=self._files.logs.history,
            activity=self._activity,
            gpu_trends=self._gpus.trends,
            engine_slots=self._engine_slots,
            refusals=self._refusals,
            gauges=self._gauges,
            engine=self._engines.service.facts,
            engine_problem=self._engines.service.problem,
            own_engines=self._engines.states(),
            version=version(),
            started_at=time.monotonic(),
            read_ram=lambda: read_memory({}),
            settings=build_request_settings(self._settings),
        )

    # --- start --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Clean up after an earlier run, then start the threads. Call it after the fork: threads do not survive one.

        Raises ConfigurationError if it is certain that the pinned models do not fit together.
        """
        self._files.start(self._settings, self._catalog.models())
        self._access_log.start()
        self._clients.start()
        self._relay.mover.start()
        self._peers.start()
        # Needs the history of loads.
        self._gpus.start(
            self._startup_check.of_pinned(self._settings, self._catalog) if self._settings.pinned else None
        )
        self._read_ahead.start()
        self._pool.start()
        self._engine_reader.start()
        if watchdog := watchdog_from(os.environ, self._pool.is_responsive, lambda: status_line(self._store.pool)):
            watchdog.start()
        self._catalog.start()
        preloaded = [name for name, model in self._settings.models.items() if model.preload]
        begin_preload(preloaded, self._catalog, self._load)
        # Objects of the start live as long as the process. A full collection that visits them pauses all streams: p99
        # at 256 streams x 100 tokens/s was 130 ms in some rounds of bench.relay, and 3 ms without them.
        gc.collect()
        gc.freeze()

    def _load(self, model: Model) -> None:
        self._pool.load(model, self.services.settings.max_wait_seconds, self._clients.watch(None))

    # --- while it runs ------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Search for model files, and apply a changed configuration. The log says what came of it."""
        with contextlib.suppress(ProxyError):  # is logged
            self._reload.reload()

    def _apply(self, candidate: CheckedConfiguration, changes: ModelChanges) -> None:
        """New requests see the new keys and models first; then the pool ends what has changed."""
        before, settings = self._settings, candidate.settings
        self._engines.service.refresh()  # one that was missing may be installed by now
        if self._engines.use(settings.own_engines()):
            self._engine_replaced()  # loads wait until it is known which GPUs the new one can use
        self.services.own_engines = self._engines.states()
        self._settings = settings
        self.services.settings = build_request_settings(settings)
        self._relay.set_timeouts(settings.upstream.first_byte_seconds, settings.upstream.stall_seconds)
        self._peers.configure(settings.peer_list(), patience(settings))
        self._files.apply(settings)
        self._catalog.replace_by(candidate.catalog)
        models = {model.name: model for model in self._catalog.models()}
        self._pool.reconfigure(build_limits(settings, self._engines), models)
        self._gpus.replace_checks(GpuNamesCheck(settings.gpu_names()), candidate.pinned)
        begin_preload(newly_preloaded(before, settings, changes), self._catalog, self._load)

    def _engine_replaced(self) -> None:
        """Called by the thread that noticed it. Running servers stay; the next ones are started with the new engine."""
        service = self._engines.service
        self.services.engine, self.services.engine_problem = service.facts, service.problem
        self.services.own_engines = self._engines.states()
        self._pool.post(ev.EngineReplaced(time.monotonic()))
        self._gpus.read_now()

    def task_of(self, model: Model) -> Task:
        """What the model is for. Raises the ProxyError of a model that cannot be served."""
        return self._needs.placement_request(model).options.task

    def _has_ended(self, server_id: int) -> bool:
        """Whether a server's process has ended, or is being stopped; waits for the former."""
        return self._pool.wait_until(lambda s: not (found := s.server(server_id)) or not found.is_up, EXIT_SECONDS)

    # --- end ----------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Reject waiting and new requests; running streams continue."""
        self._pool.post(ev.Drain(time.monotonic()))
        self._downloads.begin_drain()

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the last running request has ended; False if `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        drained = self._pool.wait_until(lambda s: s.draining and not any(x.leases for x in s.servers), timeout)
        return self._peers.wait_idle(deadline - time.monotonic()) and drained

    def close(self, timeout: float) -> None:
        """Stop every llama-server, and kill those that do not exit within `timeout` seconds."""
        self._downloads.close()
        self._peers.close()
        self._pool.post(ev.Close(time.monotonic()))
        if self._pool.wait_until(lambda s: s.closing and not s.servers, timeout + KILL_GRACE_SECONDS):
            self._files.records.end()
        else:
            log.error("llama-servers did not exit in time; killing them")
            self.kill()
        self._engine_reader.close()
        self._relay.close()
        self._gpus.close()
        self._bodies.close()
        self._access_log.close()  # late: requests that are cut off end with a line, too
        self._files.close()

    def kill(self) -> None:
        """Kill every llama-server now."""
        self._pool.kill()
        self._files.records.kill_all()
