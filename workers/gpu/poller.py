"""GpuPoller: reads NVML on one thread, `gpus`, and publishes each snapshot.

A reading may hang in the driver. Nothing waits for it and no second one is started; readers recognize an old snapshot
by its age. An APScheduler job requests a reading every `poll_seconds`, and any thread may request one in between. While
no GPU is visible and none is expected, there is no job: the thread reads once a minute. While the GPUs are asleep, NVML
is closed and the job paused: the thread waits for a request.

Visible GPUs may still be unusable for an engine. Each engine is probed on the same thread before GPUs are first
published, after every change of the set of GPUs (one that reappeared may not work, and an engine that saw none while
the driver was down may see them now), and when it is another build.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from app.entities.gpu import NOT_READ, GpuSnapshot, GpuState
from app.entities.launch import OwnEngine
from workers.gpu.engine_check import AskEngine, EngineCheck, EngineChecks, assume_usable
from workers.gpu.expected_gpus import GpuHistory, evidence_of_gpus

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
MAX_MISSED_POLLS = 3  # then read anyway: APScheduler uses the wall clock, which may have been set back


class GpuPoller:
    """`read` reads the GPUs, `publish` receives each snapshot, `history` keeps the GPUs that were seen; `expected`
    returns why there should be a GPU ("" if nothing suggests one), `ask_engine` which GPUs the engine cannot use; it
    calls its second argument now and then. `engine_build` identifies the engine, `own_engines` returns
    the checks of those that models have of their own. `may_sleep` says whether the GPUs may
    sleep at a time in monotonic seconds, `close_nvml` closes NVML until the next reading."""

    def __init__(
        self,
        read: Callable[[], GpuSnapshot],
        publish: Callable[[GpuSnapshot], None],
        history: GpuHistory,
        poll_seconds: float,
        expected: Callable[[GpuHistory], str] = evidence_of_gpus,
        ask_engine: AskEngine = assume_usable,
        engine_build: Callable[[], str] = lambda: "",
        own_engines: Callable[[], Mapping[OwnEngine, EngineCheck]] = dict,
        may_sleep: Callable[[float], bool] = lambda now: False,
        close_nvml: Callable[[], None] = lambda: None,
    ) -> None:
        self._read = read
        self._publish = publish
        self._history = history
        self._poll_seconds = poll_seconds
        self._expected = expected
        self._engines = EngineChecks(EngineCheck(ask_engine, engine_build), own_engines)
        self._may_sleep = may_sleep
        self._close_nvml = close_nvml
        self._last = NOT_READ  # the last snapshot published; written by `start`, then by `gpus` alone
        self._wanted = threading.Event()  # set by any thread, cleared by `gpus`
        self._is_ordered = threading.Event()  # the same: it is wanted even if the GPUs sleep
        self._scheduler: BackgroundScheduler | None = None  # written by `gpus` alone
        self._is_closed = False  # written once, by any thread
        self._was_hung = False  # written by APScheduler's thread alone
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        """Does not wait for the first reading: NVML takes seconds to initialize if no other program uses it."""
        self._set(replace(NOT_READ, at=time.monotonic(), poll_seconds=self._poll_seconds))
        self._thread.start()

    def read_now(self) -> None:
        """Request a reading, which wakes the GPUs; does not wait for it."""
        self._is_ordered.set()
        self._wanted.set()

    def probe_engine(self) -> None:
        """Request a reading and, before it, a new probe of the engine; does not wait for them."""
        self._engines.order()
        self.read_now()

    def close(self) -> None:
        """End the thread after the current reading, without waiting for it."""
        self._is_closed = True
        self._wanted.set()

    # --- the thread `gpus` ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            self._wanted.clear()  # before the reading: a request that comes during it wants a newer one
            self._read_or_sleep()
            self._wanted.wait(self._max_wait_seconds)
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)

    def _read_or_sleep(self) -> None:
        if self._is_ordered.is_set() or not (self._is_asleep or self._may_sleep(time.monotonic())):
            self._is_ordered.clear()
            self._poll()
        elif not self._is_asleep:
            self._fall_asleep()

    def _poll(self) -> None:
        was_asleep = self._is_asleep
        self._set_and_log(self._reading())
        if self._scheduler is None and self._is_worth_polling(self._last):
            self._schedule()
        elif self._scheduler is not None and was_asleep:
            self._scheduler.resume()

    def _fall_asleep(self) -> None:
        self._close_nvml()
        if self._scheduler is not None:
            self._scheduler.pause()
        self._set(self._last.asleep())
        _log(self._last)

    @property
    def _is_asleep(self) -> bool:
        return self._last.state is GpuState.ASLEEP

    @property
    def _max_wait_seconds(self) -> float | None:
        if self._is_asleep:
            return None
        return MAX_MISSED_POLLS * self._poll_seconds if self._scheduler else IDLE_SECONDS

    def _reading(self) -> GpuSnapshot:
        began = time.monotonic()
        try:
            snapshot = self._read()
            self._history.add(snapshot.gpus)
            if self._engines.are_due(snapshot, self._last.as_awake().has_usable_gpu):
                self._publish_during_probe(snapshot)
                self._engines.ask(snapshot, self._read_during_probe)
                snapshot = self._read()  # the first one is as old as the probe took
        except Exception as error:  # a bug, here or in nvidia-ml-py
            log.exception("the GPUs could not be read")
            snapshot = GpuSnapshot(GpuState.FAILED, began, problem=f"internal error: {error}")
        return self._completed(snapshot)

    def _read_during_probe(self) -> None:
        self._publish_during_probe(self._read())

    def _publish_during_probe(self, snapshot: GpuSnapshot) -> None:
        """With GPUs published before: the new reading; with another engine as not read yet, so that loads wait.
        Otherwise still none. Both are marked as not overdue."""
        if self._last.gpus and self._engines.is_replaced:
            self._set(replace(snapshot, state=GpuState.UNREAD, poll_seconds=None))
        elif self._last.gpus:
            self._set_and_log(self._completed(snapshot))
        else:
            self._set(replace(self._last, poll_seconds=None))

    def _completed(self, snapshot: GpuSnapshot) -> GpuSnapshot:
        if snapshot.gpus:
            return self._engines.completed(snapshot)
        return replace(snapshot, expected=self._expected(self._history))

    def _is_worth_polling(self, snapshot: GpuSnapshot) -> bool:
        return bool(snapshot.gpus or snapshot.problems)

    def _set_and_log(self, snapshot: GpuSnapshot) -> None:
        is_polled = self._scheduler is not None or self._is_worth_polling(snapshot)
        before = self._last
        self._set(replace(snapshot, poll_seconds=self._poll_seconds if is_polled else None))
        if _logged_facts(before) != _logged_facts(self._last):
            _log(self._last)

    def _set(self, snapshot: GpuSnapshot) -> None:
        self._last = snapshot
        self._publish(snapshot)

    def _schedule(self) -> None:
        """Start the APScheduler job. Imported here: a machine without GPUs saves those 80 ms."""
        from apscheduler.executors.debug import DebugExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        from workers.gpu.poll_trigger import PollTrigger

        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it logs every run
        # The job only sets an event, so the scheduler's own thread runs it instead of a thread pool.
        self._scheduler = BackgroundScheduler(executors={"default": DebugExecutor()}, timezone=datetime.UTC)
        self._scheduler.add_job(
            *(self._request_reading, PollTrigger(self._poll_seconds)),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    # --- APScheduler's thread --------------------------------------------------------------------

    def _request_reading(self) -> None:
        self._wanted.set()
        current = self._last.as_of(time.monotonic())
        is_hung = current.state is GpuState.HUNG
        if is_hung and not self._was_hung:
            log.warning("gpus state=%s %s", current.state, current.problem)
        self._was_hung = is_hung


def _logged_facts(snapshot: GpuSnapshot) -> tuple[object, ...]:
    """A change of these is logged."""
    return snapshot.state, snapshot.problems, [gpu.uuid for gpu in snapshot.gpus]


def _log(snapshot: GpuSnapshot) -> None:
    for complaint in snapshot.problems:
        log.warning("gpus state=%s %s", snapshot.state, complaint)
    if snapshot.gpus:
        names = ", ".join(f"{gpu.index}: {gpu.name}{' (unified memory)' * gpu.is_unified}" for gpu in snapshot.gpus)
        log.info("gpus state=%s driver=%s gpus=[%s]", snapshot.state, snapshot.driver_version, names)
    elif not snapshot.problems:
        level = logging.WARNING if snapshot.state is GpuState.NO_PACKAGE else logging.INFO
        log.log(level, "no NVIDIA GPU: %s", snapshot.problem)
