"""One attempt to run a llama-server: its process, from spawn to exit, on the thread that spawned it.

The thread waits for everything (log, exit, orders, timers) in one selector, so a misbehaving process blocks nothing but
its own thread.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineFacts
from app.entities.load import LoadReport
from app.entities.server import Server
from app.use_cases.launch.command_line import KEY_VARIABLE, launch_plan
from app.use_cases.launch.load_mode import FileFacts
from app.use_cases.placement.releasing import shown_bytes
from app.use_cases.scheduling import events as ev
from workers.measurement.measurement import Measurement
from workers.server.child_process import ChildProcess, describe_exit
from workers.server.cpu_use import CpuUse
from workers.server.gpu_errors import GpuUse
from workers.server.kept_cache import KeptCache
from workers.server.listening_ports import listening_ports
from workers.server.load_reading import LoadReading, bytes_to_read
from workers.server.log import ServerLog
from workers.server.marked_processes import kill_marked, marked_processes
from workers.server.orders import Orders
from workers.server.probe import count_busy_slots, is_loaded, requires_key

if TYPE_CHECKING:
    from workers.server.launcher import Launcher

log = logging.getLogger(__name__)

NEVER = float("inf")
FIRST_PROBE_SECONDS, MAX_PROBE_SECONDS = 0.01, 0.25
PROGRESS_SECONDS = 0.5
MEASURE_AFTER_SECONDS = 0.5  # after ready: a thread of llama.cpp's writes the last log lines of a load
NVML_WAIT_SECONDS = 5.0  # after ready: the longest wait for a reading of NVML that includes the process
SAVING_SHARE = 0.5  # of stop_seconds: the longest time for saving the KV cache before SIGTERM
LAST_READS = 64  # 64 x 64 KiB is more than a pipe holds


class ServerProcess:
    """The process of `server`, spawned by the constructor. `kill` may be called from any thread."""

    def __init__(
        self,
        launcher: Launcher,
        engine: EngineFacts,
        server: Server,
        post: Callable[[ev.Event], None],
        orders: Orders,
        cache: KeptCache | None,
        api_key: str,
        port: int,
        file: FileFacts,
    ) -> None:
        """`port`: 0 for one that the engine chooses. Raises OSError and ValueError if it cannot be spawned."""
        self._launcher = launcher
        self._server = server
        self._post = post
        self._orders = orders
        self._cache = cache  # None: the KV cache ends with the process
        self._api_key = api_key
        self._marks = {f"{KEY_VARIABLE}={api_key}".encode()}  # in the environment of all that it starts
        self.log = ServerLog()
        self.is_ready = False
        self.problem = ""  # why the server cannot be used although it runs
        self.gpu_failure: ev.GpuFailure | None = None
        self._file = file  # as it was before the load
        self._port: int | None = None  # set once it is proven to be our child's
        self._is_stopping = self._is_terminated = False  # terminated: SIGTERM was sent
        self._terminate_at = self._kill_at = self._measure_at = self._ready_at = NEVER
        self._probe_at, self._probe_seconds, self._progress_at = time.monotonic(), FIRST_PROBE_SECONDS, 0.0
        self._measurement: Measurement | None = launcher.measurement(server, engine, post)  # None: it is finished
        self._gpu_use = GpuUse() if launcher.must_use_gpus(server, engine) else None  # None: it need not, or does not
        slots = str(cache.folder) if cache else ""
        env = launcher.environment(server)
        plan = launch_plan(server.model, engine, env, api_key, port, slots)
        self._started_at = time.monotonic()
        self._child = ChildProcess(plan)
        self._kept_log = launcher.logs.begin(server, engine, plan, self._child.pid)
        self._cpu = CpuUse(self._child.pid)
        self._reading = LoadReading(self._child.pid, bytes_to_read(server.model))

    def kill(self) -> None:
        """SIGKILL to its process group, now."""
        self._child.kill()

    def reap(self) -> int | None:
        """Kill the process group, then collect its leader: the exit code, None if that was done before.

        No EOF is awaited: a grandchild may hold the pipe. What a script has started, in whatever session, ends, too.
        """
        if self._child.is_reaped:
            return None
        self._note_early_end()
        self._child.kill()  # the leader, dead or not, still holds the group's number
        self._read_rest_of_log()
        self._kept_log.add(self.log.feed(b"\n"), self.is_ready)
        code = self._child.reap()
        self._kept_log.ended(self.problem or describe_exit(code))
        kill_marked(self._marks)
        self._launcher.records.remove(self._child.pid)
        return code

    def _note_early_end(self) -> None:
        if not (self._orders.is_stop_wanted or self.problem) and marked_processes(self._marks):
            self.problem = "it ended while what it had started was running: a script must exec llama-server, or wait"

    def watch(self) -> None:
        """Handle its log, orders and timers until the process has exited."""
        self._launcher.records.write(self._child.pid)
        self._post(ev.Spawned(self._server.id, self._child.pid, time.monotonic()))
        pidfd = os.pidfd_open(self._child.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for number in (pidfd, self._child.log_fd, self._orders.fd):
                    selector.register(number, selectors.EVENT_READ)
                while self._handle_next(selector, pidfd):
                    pass
        finally:
            os.close(pidfd)

    def _handle_next(self, selector: selectors.BaseSelector, pidfd: int) -> bool:
        """Wait for the next thing to handle. False once the process has exited."""
        ready = {key.fd for key, _ in selector.select(self._seconds_until_timer())}
        now = time.monotonic()
        if self._child.log_fd in ready and not self._read_log():
            selector.unregister(self._child.log_fd)  # it has closed its log and runs on
        if pidfd in ready:
            return False
        if self._orders.fd in ready:
            self._orders.clear()
            self._probe_at = now  # a restore may have ended
            self._handle_orders(now)
        self._run_timers(now)
        return True

    @property
    def _is_probed(self) -> bool:
        return not self.is_ready and not self._orders.is_stop_wanted

    def _seconds_until_timer(self) -> float | None:
        probe_at = self._probe_at if self._is_probed else NEVER
        at = min(self._terminate_at, self._kill_at, self._measure_at, probe_at)
        return None if at == NEVER else max(0.0, at - time.monotonic())

    def _run_timers(self, now: float) -> None:
        if now >= self._terminate_at:
            self._is_terminated, self._terminate_at = True, NEVER
            self._child.terminate()
        if now >= self._kill_at:
            self._child.kill()
            self._kill_at = NEVER
        if now >= self._measure_at:
            self._measure()
        if not self.is_ready and now - self._progress_at >= PROGRESS_SECONDS:
            self._note_progress(now)
        if self._is_probed and now >= self._probe_at:
            self._probe()
            # Counted from the end of the probe: a slow one must not keep the log from being read.
            self._probe_at = time.monotonic() + self._probe_seconds
            self._probe_seconds = min(2 * self._probe_seconds, MAX_PROBE_SECONDS)

    def _note_progress(self, now: float) -> None:
        """A process that reads its model makes progress, whatever it prints."""
        self._progress_at, has_read, has_logged = now, self._reading.has_read(), self.log.takes_progress()
        if has_read or has_logged:
            self._post(ev.Progress(self._server.id, now, self._reading.progress))

    def _read_log(self) -> bool:
        """False at the end of the pipe."""
        data = self._child.read_log()
        if data is None:
            return True
        lines = self.log.feed(data)
        self._kept_log.add(lines, self.is_ready)
        if not self.is_ready:
            self._reading.note(lines)
        if self._measurement is not None:
            self._measurement.read(lines, self._child.pid)
            self._check_gpu_use(lines, self._measurement)
        return bool(data)

    def _check_gpu_use(self, lines: list[str], measurement: Measurement) -> None:
        """End it if it computes on the CPU although it was placed on GPUs: nobody would notice."""
        if self._gpu_use is None:
            return
        self._gpu_use.read(lines)
        if words := self._gpu_use.problem(measurement.reports_no_gpu):
            self.problem = f"it was placed on {self._server.placement.device} and uses no GPU: {words}"
            self.gpu_failure, self._gpu_use = ev.GpuFailure(words, is_unused=True), None
            self._child.kill()

    def _read_rest_of_log(self) -> None:
        for _ in range(LAST_READS):
            before = self.log.bytes_seen
            self._read_log()
            if self.log.bytes_seen == before:
                return

    def _probe(self) -> None:
        """Ready means: a loopback port held by our child, a /health of 200, and no answer without our key."""
        for port in [self._port] if self._port else sorted(listening_ports(self._child.pid)):
            if not is_loaded(port, self._api_key):
                continue
            if not requires_key(port):
                self.problem = "it answers requests without the key it was given (LLAMA_API_KEY): not a llama-server"
                self._child.kill()
                return
            is_restoring = self._cache is not None and self._cache.restore(port, self._api_key)
            if is_restoring:
                return
            self._read_rest_of_log()  # events of the load come before Ready
            self._port, self.is_ready = port, True
            self._ready_at = time.monotonic()
            self._measure_at = self._ready_at + MEASURE_AFTER_SECONDS
            log.info("ready server=%d model=%s port=%d", self._server.id, self._server.model.name, port)
            load = self._load_report()
            self._launcher.note_load(load, self._server)
            self._post(ev.Ready(self._server.id, port, time.monotonic(), load))
            return

    def _load_report(self) -> LoadReport:
        mode, seconds = self._server.model.launch.options.load_mode, self._ready_at - self._started_at
        kind = f"{self._file.file_system} {self._file.mount}".strip()
        return LoadReport(mode, self._server.model.size_bytes, seconds, kind, self._file.cached_share)

    def _measure(self) -> None:
        if self._measurement is None or self._orders.is_stop_wanted:
            self._measure_at = NEVER
            return
        gpus, now = self._launcher.gpus(), time.monotonic()
        is_read = all(gpus.read_at(uuid) > self._ready_at for uuid in self._server.model.launch.gpus)
        if not is_read and now < self._ready_at + NVML_WAIT_SECONDS:
            self._measure_at = now + MEASURE_AFTER_SECONDS  # the last reading of NVML is older than the process
            return
        measurement, self._measurement, self._measure_at = self._measurement, None, NEVER
        measurement.finish(self._child.pid, self._nvml_bytes(gpus))

    def _nvml_bytes(self, gpus: GpuSnapshot) -> dict[int, int]:
        """The process's memory as NVML reports it, by the index of the GPU among those it may use."""
        pid = self._child.pid
        read = {n: uuid for n, uuid in enumerate(self._server.model.launch.gpus) if gpus.read_at(uuid) > self._ready_at}
        reported = ((number, shown_bytes(gpus, uuid, pid)) for number, uuid in read.items())
        return {number: size for number, size in reported if size is not None}

    # --- orders -----------------------------------------------------------------------------------------

    def _handle_orders(self, now: float) -> None:
        if self._orders.is_stop_wanted and not self._is_stopping:
            self._begin_stop(now)
        elif self._is_stopping and not self._is_terminated and not (self._cache and self._cache.is_busy):
            self._terminate_at = now
        elif self._orders.is_check_wanted and self._port is not None:
            self._check(self._port, now)

    def _check(self, port: int, now: float) -> None:
        """Count its busy slots, unless only a sign of life is wanted and it has worked: /slots may have megabytes."""
        is_count_wanted, has_worked = self._orders.is_count_wanted, self._cpu.has_worked()
        self._orders.is_count_wanted = self._orders.is_check_wanted = False
        busy = count_busy_slots(port, self._api_key) if is_count_wanted or not has_worked else None
        is_listening = busy is not None or has_worked or is_loaded(port, self._api_key)
        self._post(ev.ServerChecked(self._server.id, busy, now, time.monotonic(), is_listening, has_worked))

    def _begin_stop(self, now: float) -> None:
        """Time for saving is taken out of stop_seconds, so that its memory is free no later."""
        self._is_stopping, self._terminate_at, self._kill_at = True, now, now + self._launcher.stop_seconds
        if self._orders.is_save_wanted and self.is_ready and self._cache is not None:
            assert self._port is not None
            self._cache.save(self._port, self._api_key, SAVING_SHARE * self._launcher.stop_seconds)
            self._terminate_at = self._cache.deadline
