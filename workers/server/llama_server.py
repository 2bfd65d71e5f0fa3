"""One llama-server on one thread: spawn, watch, wait until ready, stop, reap.

The thread lives exactly as long as the process: the kernel's parent-death signal is tied to the thread that
spawned it. Everything it waits for (log, exit, orders, the next probe) is in one selector, so no fault of the child
can hold more than its own thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineFacts
from app.entities.model import Model
from app.entities.server import Server
from app.use_cases.launch.launch import ANY_PORT, launch_on, launch_plan
from app.use_cases.placement.ledger import shown_bytes
from app.use_cases.scheduling import events as ev
from workers.measurement.history import History, start_of
from workers.measurement.measurement import Measurement
from workers.server.child_process import exit_words, free_port, listening_ports, popen, signal_group
from workers.server.kept_cache import KeptCache, KeptCaches
from workers.server.load_progress import load_progress
from workers.server.log import ServerLog, is_out_of_gpu_memory, last_words
from workers.server.orphans import PidRecords
from workers.server.probe import busy_slots, is_loaded, wants_its_key

log = logging.getLogger(__name__)

FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS = 0.01, 0.25
PROGRESS_EVERY_SECONDS = 0.5
BIND_ATTEMPTS = 3
MEASURE_AFTER_SECONDS = 0.5  # after ready: the last lines of a load's log are written by a thread of llama.cpp's
SHOWN_SECONDS = 5.0  # after ready: so long NVML is waited for
SAVING_SHARE = 0.5  # of stop_seconds: so long a server may save its KV cache before it is told to end
READ_BYTES = 64 * 1024
EXIT_ORDER = b"cmd_router_to_child:exit\n"
LAST_READS = 64  # 64 x 64 KiB is more than a pipe holds

_BIND_FAILED = re.compile(r"couldn't bind|failed to bind|address already in use|invalid port", re.IGNORECASE)


class Launcher:
    """Starts llama-servers with one engine. `fixed_ports`: it has shown that it cannot choose a port itself."""

    def __init__(
        self,
        engine: EngineFacts,
        env: Mapping[str, str],
        records: PidRecords,
        history: History,
        as_started: Callable[[Model], Model],
        gpus: Callable[[], GpuSnapshot],
        stop_seconds: float,
        caches: KeptCaches,
    ) -> None:
        self.engine = engine
        self.env = env
        self.records = records
        self.history = history
        self.as_started = as_started
        self.gpus = gpus
        self.stop_seconds = stop_seconds
        self.caches = caches
        self.fixed_ports = False  # written by any server's thread; False -> True once

    def spawn(self, server: Server, post: Callable[[ev.Event], None]) -> LlamaServer:
        """Start a server on a thread of its own. Whatever happens is told: Spawned, Projected, Progress, Ready,
        Measured, at last Exited."""
        process = LlamaServer(self, server, post)
        try:
            process.thread.start()
        except RuntimeError:  # no thread left
            process.discard()
            raise
        return process

    def measurement(self, server: Server, post: Callable[[ev.Event], None]) -> Measurement:
        """For one attempt to start it."""
        start = start_of(server.model, self.engine, server.placement.names)
        return Measurement(server, start, self.history, post, logs_json="--log-jsonl" in self.engine.flags)


class LlamaServer:
    """The process of one server. `stop` and `kill` may be called from any thread; all else is its own thread's."""

    def __init__(self, launcher: Launcher, server: Server, post: Callable[[ev.Event], None]) -> None:
        self.api_key = secrets.token_urlsafe(32)
        self.log = ServerLog()
        self._launcher = launcher
        self._server = server
        self._post = post
        self._orders = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()  # an order must not be written to a number that is another file by now
        self._closed = False
        self._stop_wanted = self._save_wanted = False
        self._is_stopping = self._is_told_to_end = False
        self._cache: KeptCache | None = None  # None: it ends with the process
        self._count_wanted = False
        self._end_at = self._kill_at = self._measure_at = self._ready_at = float("inf")
        self._measurement: Measurement | None = None  # of this attempt, until it is finished
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None  # known once it is proved to be ours
        self._is_ready = False
        self._loaded_share: float | None = None
        self._verdict = ""  # why it cannot be used although it runs
        self.thread = threading.Thread(target=self._run, name=f"server-{server.id}", daemon=True)

    # --- for any thread ---------------------------------------------------------------------------

    def stop(self, saves: bool = False) -> None:
        """Have it end: SIGTERM to its group, SIGKILL `stop_seconds` later. `saves`: it may keep its KV cache before
        that, where this is wanted of its model."""
        self._save_wanted = saves
        self._stop_wanted = True
        self._wake()

    def count_slots(self) -> None:
        """Ask it how many of its slots are busy; SlotsCounted tells, also that it did not answer."""
        self._count_wanted = True
        self._wake()

    def discard(self) -> None:
        """Give back what it holds, when its thread never began."""
        os.close(self._orders)

    def kill(self) -> None:
        """SIGKILL to its group, now."""
        process = self._process
        if process is not None and process.returncode is None:
            signal_group(process.pid, signal.SIGKILL)

    def _wake(self) -> None:
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._orders, 1)

    # --- its own thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        could_not_spawn, detail = True, "internal error"
        try:
            could_not_spawn, detail = self._live()
        except Exception:
            log.exception("server=%d", self._server.id)
        finally:  # whatever happened: without Exited its model would be stuck for ever
            self._end()
            ran_out = not self._is_ready and is_out_of_gpu_memory(self.log.lines())
            self._post(ev.Exited(self._server.id, detail, time.monotonic(), could_not_spawn, ran_out))

    def _end(self) -> None:
        try:
            self._reap()
        except Exception:
            log.exception("server=%d", self._server.id)
        with self._closing:
            self._closed = True
            os.close(self._orders)
        if self._cache is not None:
            self._cache.give_back()

    def _live(self) -> tuple[bool, str]:
        """From spawn to reap: whether that could not even begin, and how it ended.

        A port lost to somebody else costs a new attempt, not the load; so does a saved KV cache that llama.cpp ends at.
        """
        model = self._launcher.as_started(self._server.model)
        self._server = replace(
            self._server, model=replace(model, launch=launch_on(model.launch, self._server.placement))
        )
        self._cache = self._launcher.caches.of(self._server, self._wake)
        for attempt in range(1, BIND_ATTEMPTS + 1):
            try:
                self._spawn()
            except (OSError, ValueError) as error:
                return True, str(error)
            self._watch()
            code = self._reap()
            words = last_words(self.log.lines())
            if self._is_ready or self._stop_wanted or attempt == BIND_ATTEMPTS:
                break
            if self._cache is not None and self._cache.took_it_down():
                log.warning("server=%d ended at its saved kv cache; starting it without", self._server.id)
                continue
            if not _BIND_FAILED.search(words):
                break
            log.warning("server=%d could not listen on its port; trying another", self._server.id)
            self._launcher.fixed_ports = True
        level = logging.INFO if self._stop_wanted else logging.WARNING
        log.log(level, "exited server=%d model=%s %s", self._server.id, self._server.model.name, exit_words(code))
        return False, f"{self._verdict or exit_words(code)}\n{words}"

    def _spawn(self) -> None:
        port = free_port() if self._launcher.fixed_ports else ANY_PORT
        slots = str(self._cache.folder) if self._cache else ""
        plan = launch_plan(self._server.model, self._launcher.engine, self._launcher.env, self.api_key, port, slots)
        self.log = ServerLog()
        self._measurement = self._launcher.measurement(self._server, self._post)
        self._process = popen(plan)
        self._launcher.records.write(self._process.pid)
        self._post(ev.Spawned(self._server.id, self._process.pid, time.monotonic()))

    def _watch(self) -> None:
        """Until the process has ended."""
        process = self._process
        assert process is not None and process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        pidfd = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(process.stdout, selectors.EVENT_READ)
                selector.register(self._orders, selectors.EVENT_READ)
                self._loop(selector, pidfd, process)
        finally:
            os.close(pidfd)

    def _loop(self, selector: selectors.BaseSelector, pidfd: int, process: subprocess.Popen[bytes]) -> None:
        probe_at, probe_seconds, progress_at = time.monotonic(), FIRST_PROBE_SECONDS, 0.0
        while True:
            is_probed = not self._is_ready and not self._stop_wanted
            wake_at = min(self._end_at, self._kill_at, self._measure_at, probe_at if is_probed else float("inf"))
            nap = None if wake_at == float("inf") else max(0.0, wake_at - time.monotonic())
            ready = {key.fd for key, _ in selector.select(nap)}
            now = time.monotonic()
            assert process.stdout is not None
            if process.stdout.fileno() in ready and not self._drain_log():
                selector.unregister(process.stdout)  # it closed its log and lives on
            if pidfd in ready:
                return
            if self._orders in ready:
                os.eventfd_read(self._orders)
                probe_at = now  # what it has restored is done, perhaps
                self._obey(now)
            if now >= self._end_at:
                self._tell_to_end(process.pid)
            if now >= self._kill_at:
                signal_group(process.pid, signal.SIGKILL)
                self._kill_at = float("inf")
            if now >= self._measure_at:
                self._measure(process.pid)
            if self.log.takes_progress() and not self._is_ready and now - progress_at >= PROGRESS_EVERY_SECONDS:
                progress_at = now
                self._post(ev.Progress(self._server.id, now, self._loaded_share))
            if not self._is_ready and not self._stop_wanted and now >= probe_at:
                self._probe(process.pid)
                # From the end of a probe: one that waits must not keep the log from being drained.
                probe_at, probe_seconds = (
                    time.monotonic() + probe_seconds,
                    min(2 * probe_seconds, LONGEST_PROBE_SECONDS),
                )

    def _drain_log(self) -> bool:
        """Take what is there. False at the end of the pipe."""
        assert self._process is not None and self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return True
        lines = self.log.feed(data)
        if not self._is_ready:
            self._loaded_share = load_progress(lines) or self._loaded_share
        if self._measurement is not None:
            self._measurement.read(lines, self._process.pid)
        return bool(data)

    def _drain_whole_log(self) -> None:
        for _ in range(LAST_READS):
            before = self.log.bytes_seen
            self._drain_log()
            if self.log.bytes_seen == before:
                return

    def _measure(self, pid: int) -> None:
        if self._measurement is None or self._stop_wanted:
            self._measure_at = float("inf")
            return
        gpus, now = self._launcher.gpus(), time.monotonic()
        if self._server.model.launch.gpus and gpus.at <= self._ready_at and now < self._ready_at + SHOWN_SECONDS:
            self._measure_at = now + MEASURE_AFTER_SECONDS  # NVML was last read before it was there
            return
        measurement, self._measurement, self._measure_at = self._measurement, None, float("inf")
        measurement.finish(pid, self._shown_bytes(gpus, pid))

    def _shown_bytes(self, gpus: GpuSnapshot, pid: int) -> dict[int, int]:
        """What NVML shows for it, by GPU as it counts them; those that do not say left out."""
        shown = ((n, shown_bytes(gpus, uuid, pid)) for n, uuid in enumerate(self._server.model.launch.gpus))
        return {number: size for number, size in shown if size is not None}

    def _obey(self, now: float) -> None:
        if self._stop_wanted and not self._is_stopping:
            self._begin_to_stop(now)
        elif self._is_stopping and not self._is_told_to_end and not (self._cache and self._cache.is_at_work):
            self._end_at = now
        elif self._count_wanted and self._port is not None:
            self._count_wanted = False
            self._post(ev.SlotsCounted(self._server.id, busy_slots(self._port, self.api_key), now, time.monotonic()))

    def _begin_to_stop(self, now: float) -> None:
        """What it may save takes of the time that it has to end in: its memory is not waited for any longer."""
        self._is_stopping, self._end_at, self._kill_at = True, now, now + self._launcher.stop_seconds
        if self._save_wanted and self._is_ready and self._cache is not None:
            assert self._port is not None
            self._cache.save(self._port, self.api_key, SAVING_SHARE * self._launcher.stop_seconds)
            self._end_at = self._cache.until

    def _tell_to_end(self, pid: int) -> None:
        self._is_told_to_end, self._end_at = True, float("inf")
        signal_group(pid, signal.SIGTERM)
        self._order_exit()

    def _order_exit(self) -> None:
        """What a router of llama.cpp says to its child. At SIGTERM a child ends its HTTP, and waits for this for good.

        Source: server_child::setup in server-models.cpp, whose thread server.cpp joins at its end (llama.cpp b11434).
        """
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(EXIT_ORDER)

    def _probe(self, pid: int) -> None:
        """Ready is: a loopback port held by this very process, a /health of 200, and no answer without our key."""
        for port in [self._port] if self._port else sorted(listening_ports(pid)):
            if not is_loaded(port, self.api_key):
                continue
            if not wants_its_key(port):
                self._verdict = "it answers without the key it was given (LLAMA_API_KEY): not a llama-server to use"
                signal_group(pid, signal.SIGKILL)
                return
            if self._cache is not None and self._cache.restores(port, self.api_key):
                return
            self._drain_whole_log()  # what it said before it answered is told before that it does
            self._port, self._is_ready = port, True
            self._ready_at = time.monotonic()
            self._measure_at = self._ready_at + MEASURE_AFTER_SECONDS
            log.info("ready server=%d model=%s port=%d", self._server.id, self._server.model.name, port)
            self._post(ev.Ready(self._server.id, port, time.monotonic()))
            return

    def _reap(self) -> int | None:
        """Take the group down with its leader, then collect that. A grandchild may hold the pipe: no EOF is awaited."""
        process = self._process
        if process is None or process.returncode is not None:
            return None
        signal_group(process.pid, signal.SIGKILL)  # the leader, dead or not, still holds the group's number
        self._drain_whole_log()
        code = process.wait()
        for pipe in (process.stdout, process.stdin):
            if pipe is not None:
                pipe.close()
        self._launcher.records.remove(process.pid)
        return code
