"""One llama-server on one thread: started, watched, and started again if its port was taken.

The thread lives exactly as long as the process: the kernel's parent-death signal is tied to the thread that spawned it.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from app.entities.launch import EngineFacts, LaunchSettings
from app.entities.model import Model
from app.entities.placement import Placement
from app.entities.server import Server
from app.use_cases.launch.command_line import ANY_PORT, launch_on, with_draft_head
from app.use_cases.launch.load_mode import FileFacts
from app.use_cases.scheduling import events as ev
from workers.logs.engine_text import without_backtrace
from workers.server.child_process import describe_exit, free_port
from workers.server.gpu_errors import find_gpu_failure
from workers.server.kept_cache import KeptCache
from workers.server.log import error_lines, is_out_of_gpu_memory
from workers.server.orders import Orders
from workers.server.server_process import ServerProcess

if TYPE_CHECKING:
    from workers.server.launcher import Launcher

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
CRASH_LINES = 50  # the last words of a crash

_BIND_FAILED = re.compile(r"couldn't bind|failed to bind|address already in use|invalid port", re.IGNORECASE)


class LlamaServer:
    """One server of the pool. What is public may be called from any thread; the rest is its own thread's."""

    def __init__(self, launcher: Launcher, server: Server, post: Callable[[ev.Event], None]) -> None:
        self.api_key = secrets.token_urlsafe(32)
        self._launcher = launcher
        self._server = server
        self._post = post
        self._orders = Orders()
        self._cache: KeptCache | None = None
        self._file = FileFacts()  # of the model, before the load
        self._process: ServerProcess | None = None  # of the last attempt
        self._not_drafting: tuple[str, str] | None = None  # as in Launcher, if this attempt is without drafting
        self._thread = threading.Thread(target=self._run, name=f"server-{server.id}", daemon=True)

    # --- for any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the system has none left."""
        try:
            self._thread.start()
        except RuntimeError:
            self._orders.close()
            raise

    def stop(self, saves: bool = False) -> None:
        """SIGTERM to its process group, SIGKILL `stop_seconds` later. `saves`: the KV cache may be saved before that,
        if its model has keep_kv_cache."""
        self._orders.stop(saves)

    def check(self, counts_slots: bool) -> None:
        """Carry out CheckServer; posts ServerChecked, even if there is no answer."""
        self._orders.check(counts_slots)

    def kill(self) -> None:
        """SIGKILL to its process group, now."""
        if self._process is not None:
            self._process.kill()

    # --- its own thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        could_not_spawn, detail, code = True, "internal error", None
        try:
            could_not_spawn, detail, code = self._run_until_exit()
        except Exception:
            log.exception("server=%d", self._server.id)
        finally:  # in any case: without Exited the model would never be loaded again
            self._release()
            gpu_failure = self._gpu_failure()
            ran_out_of_memory = gpu_failure is None and is_out_of_gpu_memory(self._last_lines)
            how = could_not_spawn, ran_out_of_memory, gpu_failure, code
            self._post(ev.Exited(self._server.id, detail, time.monotonic(), *how))

    def _gpu_failure(self) -> ev.GpuFailure | None:
        if self._process is None or self._server.placement.is_on_cpu:
            return None
        return self._process.gpu_failure or find_gpu_failure(self._last_lines)

    @property
    def _last_lines(self) -> list[str]:
        """Of its log: while it answers, earlier lines may be about requests that failed without harm."""
        if self._process is None:
            return []
        lines = without_backtrace(self._process.log.lines())
        return lines[-CRASH_LINES:] if self._process.is_ready else lines

    def _release(self) -> None:
        try:
            if self._process is not None:
                self._process.reap()
        except Exception:
            log.exception("server=%d", self._server.id)
        self._orders.close()
        if self._cache is not None:
            self._cache.return_untried()

    def _run_until_exit(self) -> tuple[bool, str, int | None]:
        """(whether the process could not be spawned, how it ended, its exit code).

        Another process may take its port, and llama.cpp may abort on a saved KV cache: both cost a new attempt, not
        the load.
        """
        try:
            engine = self._launcher.engine(self._server.model.launch.engine)
        except OSError as error:
            return True, str(error), None
        model = self._launcher.as_started(self._server.model)
        for remark in self._launcher.remarks(model):
            log.warning("server=%d model=%s %s", self._server.id, model.name, remark)
        self._server = replace(self._server, model=self._as_loaded(model, engine))
        self._cache = self._launcher.caches.prepare(self._server, engine, self._orders.wake)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._process = None
            try:
                self._process = process = self._spawn(engine)
            except (OSError, ValueError) as error:
                return True, str(error), None
            process.watch()
            code = process.reap()
            errors = error_lines(process.log.lines(), process.is_ready)
            is_over = process.is_ready or self._orders.is_stop_wanted or attempt == MAX_ATTEMPTS
            if is_over or not self._prepare_retry(errors, engine.identity):
                break
        if process.is_ready and not self._orders.is_stop_wanted:
            self._note_crash_while_drafting(engine.identity)
        level = logging.INFO if self._orders.is_stop_wanted else logging.WARNING
        how = describe_exit(code)
        log.log(level, "exited server=%d model=%s %s", self._server.id, self._server.model.name, how)
        return False, f"{process.problem or how}\n{errors}", code

    def _as_loaded(self, model: Model, engine: EngineFacts) -> Model:
        """The model with the settings of this very start."""
        if (model.path, engine.identity) in self._launcher.not_drafting:
            self._server = replace(self._server, placement=_without_drafting(self._server.placement))
        placement = self._server.placement
        model = replace(model, launch=launch_on(model.launch, placement))
        choice = self._launcher.choose_load_mode(model, placement, engine)
        self._file = choice.file
        log.info("load server=%d model=%s mode=%s (%s)", self._server.id, model.name, choice.mode, choice.reason)
        options = replace(model.launch.options, load_mode=choice.mode)
        return replace(model, launch=replace(model.launch, options=options))

    def _spawn(self, engine: EngineFacts) -> ServerProcess:
        port = free_port() if engine.identity in self._launcher.need_fixed_ports else ANY_PORT
        about = self._launcher, engine, self._server
        return ServerProcess(*about, self._blame_drafting, self._orders, self._cache, self.api_key, port, self._file)

    def _note_crash_while_drafting(self, engine: str) -> None:
        """The next load of the model is without: the engine aborts where a head asks for what the model lacks."""
        if self._server.placement.speculation:
            log.warning("server=%d ended while it drafted tokens; not again until a restart", self._server.id)
            self._launcher.not_drafting.add((self._server.model.path, engine))

    def _stop_drafting(self, engine: str) -> bool:
        """Without what the placement added, more is booked than is needed. False: it added nothing."""
        if not self._server.placement.speculation:
            return False
        log.warning("server=%d did not start; trying it without --spec-type", self._server.id)
        model, placement = self._server.model, self._server.placement
        self._not_drafting = model.path, engine
        head = len(with_draft_head(LaunchSettings(), placement.draft_head).args)  # the last of the arguments
        args = model.launch.args[: len(model.launch.args) - head]
        launch = replace(model.launch, args=args, options=replace(model.launch.options, speculation="none"))
        placement = _without_drafting(placement)
        self._server = replace(self._server, model=replace(model, launch=launch), placement=placement)
        return True

    def _blame_drafting(self, event: ev.Event) -> None:
        """Post the event. Where the start without drafting succeeds, drafting was why the one before had failed."""
        if self._not_drafting is not None and isinstance(event, ev.Ready):
            self._launcher.not_drafting.add(self._not_drafting)
            log.warning("server=%d starts without --spec-type: the model drafts no more", self._server.id)
        self._post(event)

    def _prepare_retry(self, errors: str, engine: str) -> bool:
        """Whether another attempt may succeed, by the error lines of the last one. `engine`: its identity."""
        if self._cache is not None and self._cache.ended_in_restore():
            log.warning("server=%d exited while its saved kv cache was restored; retrying without", self._server.id)
            return True
        if not _BIND_FAILED.search(errors):
            return self._stop_drafting(engine)
        log.warning("server=%d could not listen on its port; trying another", self._server.id)
        self._launcher.need_fixed_ports.add(engine)
        return True


def _without_drafting(placement: Placement) -> Placement:
    return replace(placement, speculation="", draft_head="")
