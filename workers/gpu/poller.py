"""GpuPoller: keeps StateStore.gpus fresh.

One thread, `gpus`, reads NVML and publishes. It may hang in the driver: nobody waits for it, no second one is started,
and who reads the snapshot sees by its age that it is old. An APScheduler job rings for a reading once in
`poll_seconds`; others may ring in between. Without a GPU in sight, or one that is missed, there is no job either: the
thread looks again once a minute.

That there are GPUs does not say that the engine can use them. It is asked on the same thread, before GPUs are shown for
the first time, and after every change of which there are: one that came back may not work, and an engine that knew none
while the driver was down knows them now.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from app.entities.gpu import NOT_READ, GpuSnapshot, GpuState
from workers.gpu.evidence import SeenGpus, why_expected
from workers.telemetry.store import StateStore

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
ASK_AGAIN_SECONDS = 60.0  # while the engine cannot use the GPUs: it may have been replaced
PATIENCE = 3  # polls without a ring: APScheduler goes by the wall clock, and somebody has set that back


class GpuPoller:
    """`read` reads the GPUs; `seen` remembers them; `can_use` says why the engine cannot use them, "" if it can; `post`
    is given each snapshot."""

    def __init__(
        self,
        store: StateStore,
        read: Callable[[], GpuSnapshot],
        seen: SeenGpus,
        poll_seconds: float,
        expected: Callable[[SeenGpus], str] = why_expected,
        can_use: Callable[[], str] = lambda: "",
        post: Callable[[GpuSnapshot], None] = lambda snapshot: None,
    ) -> None:
        self._store = store
        self._read = read
        self._seen = seen
        self._poll_seconds = poll_seconds
        self._expected = expected
        self._can_use = can_use
        self._post = post
        self._engine_problem = ""  # what it said last; this and the next two: written by `gpus` alone
        self._asked_at = 0.0
        self._uuids: set[str] = set()  # of the last reading
        self._wanted = threading.Event()  # set by any thread, cleared by `gpus`
        self._scheduler: BackgroundScheduler | None = None  # written by `gpus` alone
        self._is_closed = False  # written once, by any thread
        self._is_late = False  # written by APScheduler's thread alone
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        """Does not wait for the first reading: initialising NVML takes seconds where no other program uses it."""
        self._put(replace(NOT_READ, at=time.monotonic(), poll_seconds=self._poll_seconds))
        self._thread.start()

    def read_now(self) -> None:
        """Ask for a reading; it comes when it comes."""
        self._wanted.set()

    def close(self) -> None:
        """No more readings. One that hangs is not waited for."""
        self._is_closed = True
        self._wanted.set()

    # --- the thread `gpus` ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            self._wanted.clear()  # before the reading: who rings while it goes on wants a newer one
            self._publish(self._reading())
            if self._scheduler is None and self._is_worth_polling():
                self._schedule()
            self._wanted.wait(PATIENCE * self._poll_seconds if self._scheduler else IDLE_SECONDS)
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)

    def _reading(self) -> GpuSnapshot:
        began = time.monotonic()
        try:
            snapshot = self._read()
            self._seen.add(snapshot.gpus)
            if self._must_ask(snapshot):
                self._bridge(snapshot)
                self._engine_problem, self._asked_at = self._can_use(), time.monotonic()
                snapshot = self._read()  # the other one is as old as that took
        except Exception as error:  # a bug, here or in nvidia-ml-py
            log.exception("the GPUs could not be read")
            snapshot = GpuSnapshot(GpuState.FAILED, began, problem=f"internal error: {error}")
        return self._completed(snapshot)

    def _must_ask(self, snapshot: GpuSnapshot) -> bool:
        before, self._uuids = self._uuids, {gpu.uuid for gpu in snapshot.gpus}
        is_again = self._engine_problem and time.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS
        return bool(self._uuids) and bool(self._uuids != before or is_again)

    def _bridge(self, snapshot: GpuSnapshot) -> None:
        """What is said while the engine is asked: what is known of it, or still nothing, which is not late then."""
        if self._store.gpus.gpus:
            self._publish(self._completed(snapshot))
        else:
            self._put(replace(self._store.gpus, poll_seconds=None))

    def _completed(self, snapshot: GpuSnapshot) -> GpuSnapshot:
        if snapshot.gpus:
            return replace(snapshot, engine_problem=self._engine_problem)
        return replace(snapshot, expected=self._expected(self._seen))

    def _is_worth_polling(self) -> bool:
        return bool(self._store.gpus.gpus or self._store.gpus.complaints)

    def _publish(self, snapshot: GpuSnapshot) -> None:
        is_polled = bool(self._scheduler or snapshot.gpus or snapshot.complaints)
        before = self._store.gpus
        self._put(replace(snapshot, poll_seconds=self._poll_seconds if is_polled else None))
        if _said(before) != _said(self._store.gpus):
            _log(self._store.gpus)

    def _put(self, snapshot: GpuSnapshot) -> None:
        self._store.gpus = snapshot
        self._post(snapshot)

    def _schedule(self) -> None:
        """Have APScheduler ring from now on. Imported here: a machine without GPUs need not spend those 80 ms."""
        from apscheduler.executors.debug import DebugExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it tells of every run
        # The job rings and is done, so the scheduler's own thread runs it, in place of a pool of threads.
        self._scheduler = BackgroundScheduler(executors={"default": DebugExecutor()}, timezone=datetime.UTC)
        self._scheduler.add_job(
            *(self._ring, "interval"),
            seconds=self._poll_seconds,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    # --- APScheduler's thread --------------------------------------------------------------------

    def _ring(self) -> None:
        self._wanted.set()
        is_late = (now := self._store.gpus.as_of(time.monotonic())).state is GpuState.HUNG
        if is_late and not self._is_late:
            log.warning("gpus state=%s %s", now.state, now.problem)
        self._is_late = is_late


def _said(snapshot: GpuSnapshot) -> tuple[object, ...]:
    """What is worth a line when it changes."""
    return snapshot.state, snapshot.complaints, [gpu.uuid for gpu in snapshot.gpus]


def _log(snapshot: GpuSnapshot) -> None:
    for complaint in snapshot.complaints:
        log.warning("gpus state=%s %s", snapshot.state, complaint)
    if snapshot.gpus:
        names = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in snapshot.gpus)
        log.info("gpus state=%s driver=%s gpus=[%s]", snapshot.state, snapshot.driver_version, names)
    elif not snapshot.complaints:
        level = logging.WARNING if snapshot.state is GpuState.NO_PACKAGE else logging.INFO
        log.log(level, "no NVIDIA GPU: %s", snapshot.problem)
