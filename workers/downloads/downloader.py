"""Downloader: downloads models by name into the Hugging Face cache, each in a thread and a process of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from app.entities.download import Download, DownloadState
from app.entities.model import Model
from app.entities.model_name import folded
from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, Draining, NotSupported, Overloaded, ProxyError
from app.use_cases.downloads.disk import DISK_RESERVE_BYTES, disk_problem
from app.use_cases.downloads.repository_plan import RepositoryPlan
from workers.downloads.cache_layout import InvalidAnswer, RepositoryFolder, free_bytes
from workers.downloads.calls import begin_calls
from workers.downloads.counts import DownloadCounts
from workers.downloads.found_model import FoundModel
from workers.downloads.removal import delete_from_cache, delete_partial_files
from workers.downloads.task import Canceled, DownloadTask
from workers.downloads.transfer_process import Job
from workers.downloads.transfer_progress import present_bytes, transfer

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_RUNNING = 4
MAX_OF_A_KEY = 3  # one place is left for others
MAX_PLANS = 4  # at the same time: each reads headers of megabytes
SHOWN_SECONDS = 600.0  # after their end
MAX_ENDED = 20
CLOSE_SECONDS = 2.0
CHECK_SECONDS = 150.0  # to find a model, and again to read its header: a server may send byte by byte
DRAINING = "the service is shutting down; try again once it has restarted"


class Downloader:
    """Thread-safe. Starts no thread before the first download."""

    def __init__(
        self,
        cache: Callable[[], Path | None],
        find: Callable[[RepositoryName], FoundModel],
        check: Callable[[FoundModel], None],
        plan: Callable[[RepositoryName], RepositoryPlan],
        completed: Callable[[], None],
        reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        """`cache`: the folder of the Hugging Face cache; None if it is not used. `find` asks the server, `check` reads
        the model's header there, `plan` is that of the port; all three raise ProxyErrors. `completed` is called after
        each complete download, before those who wait for it go on. `reserve_bytes`: what stays free of the disk."""
        self._cache, self._find, self._check, self._plan, self._completed = cache, find, check, plan, completed
        self._reserve_bytes = reserve_bytes
        self._changed = threading.Condition()
        self.counts = DownloadCounts()
        self._tasks: tuple[DownloadTask, ...] = ()  # by their start; replaced whole, under the lock
        self._is_draining = False
        self._numbers = count(1)
        self._plans = threading.BoundedSemaphore(MAX_PLANS)

    @property
    def all(self) -> tuple[Download, ...]:
        now = time.monotonic()
        return tuple(task.download for task in self._tasks if task.is_shown(now, SHOWN_SECONDS))

    def start(self, name: RepositoryName, key: str = "") -> Download:
        self._folder()
        with self._changed:
            if self._is_draining:
                raise Draining(DRAINING)
            if (task := self._task(name)) and task.is_running:
                return task.download
            task = self._add(name, key)
        thread = threading.Thread(target=self._run, args=(task,), name=f"download-{next(self._numbers)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._fail(task, refusal := Overloaded(f"no thread could be started for the download of {name}"))
            raise refusal from error
        return task.download

    def _add(self, name: RepositoryName, key: str) -> DownloadTask:
        """In place of an ended one of that name. Raises Overloaded."""
        running = [task for task in self._tasks if task.is_running]
        if len(running) >= MAX_RUNNING:
            raise Overloaded(f"{len(running)} models are being downloaded; wait for one of them, or cancel it")
        if key and sum(task.key == key for task in running) >= MAX_OF_A_KEY:
            raise Overloaded(f"{MAX_OF_A_KEY} models are being downloaded for the key {key!r}; wait for one of them")
        task = DownloadTask(name, self._changed, self.counts, key)
        ended = [each for each in self._tasks if not each.is_running and not each.names & task.names]
        kept = {*running, *ended[-MAX_ENDED:]}
        self._tasks = (*(each for each in self._tasks if each in kept), task)
        return task

    def wait(self, name: RepositoryName, seconds: float) -> Download | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_draining or not self._is_running(name), seconds)
            task = self._task(name)
            if self._is_draining and task is not None and task.is_running:
                raise Draining(DRAINING)
        if task is not None and task.error is not None:
            raise task.error
        return task.download if task is not None else None

    def plan(self, name: RepositoryName) -> RepositoryPlan:
        if not self._plans.acquire(blocking=False):
            raise Overloaded(f"{MAX_PLANS} repositories are being planned; try again in a few seconds")
        try:
            return self._plan(name)
        finally:
            self._plans.release()

    def cancel(self, name: RepositoryName) -> bool:
        task = self._task(name)
        return task is not None and task.cancel()

    def remove(self, model: Model, unused_by: Sequence[Model]) -> int:
        cache = self._folder()
        for task in self._tasks:
            if folded(model.name) in task.names:
                task.cancel()
        return delete_from_cache(cache, model, unused_by)

    def discard(self, name: RepositoryName) -> int:
        cache = self._folder()
        if not name.choice or not RepositoryFolder(cache, name.repo).partials():
            return delete_partial_files(cache, name.repo)
        try:
            found = _within(CHECK_SECONDS, name, partial(self._find, name))
        except ProxyError as error:
            raise NotSupported(
                f"it is not known which unfinished files are those of {name}: {error}. Deleting {name.repo} deletes "
                "all of the repository"
            ) from error
        return delete_partial_files(cache, name.repo, {file.sha256 for file in found.model.files})

    def begin_drain(self) -> None:
        """Start no more of them. Those that run go on until `close`."""
        with self._changed:
            self._is_draining = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop all; partial downloads are kept."""
        self.begin_drain()
        deadline = time.monotonic() + CLOSE_SECONDS
        canceled = [task for task in self._tasks if task.cancel()]
        for task in canceled:
            task.thread_ended.wait(max(0.0, deadline - time.monotonic()))

    def _task(self, name: RepositoryName) -> DownloadTask | None:
        """The last one of that name."""
        wanted = folded(str(name))
        return next((task for task in reversed(self._tasks) if wanted in task.names), None)

    def _is_running(self, name: RepositoryName) -> bool:
        return (task := self._task(name)) is not None and task.is_running

    def _folder(self) -> Path:
        if (folder := self._cache()) is None:
            raise NotSupported("models are not downloaded: catalog.hugging_face.cache, where they would go, is off")
        return folder

    # --- a download's thread ------------------------------------------------------------------------------

    def _run(self, task: DownloadTask) -> None:
        try:
            self._download(task)
        except Canceled:
            log.info("download canceled model=%s", task.download.model)
        except ProxyError as error:
            self._fail(task, error)
        except InvalidAnswer as error:
            self._fail(task, DownloadFailed(str(error)))
        except OSError as error:
            self._fail(task, DownloadFailed(f"{task.name} cannot be downloaded: {error}"))
        except Exception as error:  # a bug: nobody would wait for it any longer
            log.exception("the download of %s failed", task.download.model)
            self._fail(task, DownloadFailed(f"{type(error).__name__}: {error}"))
        finally:
            task.thread_ended.set()

    def _fail(self, task: DownloadTask, error: ProxyError) -> None:
        if task.end(DownloadState.FAILED, error):
            log.warning("download failed model=%s code=%s reason=%r", task.download.model, error.code, str(error))

    def _download(self, task: DownloadTask) -> None:
        cache, began = self._folder(), time.monotonic()
        found = _within(CHECK_SECONDS, task.name, partial(self._find, task.name))
        model, repository = found.model, found.repository
        if self._has_joined(task, found.folded_names):
            return
        job = Job(cache, repository, model.files, self._reserve_bytes)
        task.update(model=model.name, total_bytes=model.size_bytes, done_bytes=(present := present_bytes(job)))
        if present < model.size_bytes:
            _within(CHECK_SECONDS, task.name, partial(self._check, found))
            self._check_space(task, model.size_bytes - present, cache)
        log.info("download model=%s revision=%s bytes=%d", model.name, repository.revision, model.size_bytes)
        transfer(task, job)
        self._completed()
        if task.end(DownloadState.COMPLETE):
            log.info("download complete model=%s seconds=%.0f", model.name, time.monotonic() - began)

    def _has_joined(self, task: DownloadTask, names: frozenset[str]) -> bool:
        """Whether the same model is downloaded under another name: its download then is that of this name, too.
        `names`: all of the model's."""
        names |= task.names
        with self._changed:
            others = [each for each in self._tasks if each is not task and each.is_running and each.names & names]
            (others[0] if others else task).names |= names
            if others:
                self._tasks = tuple(each for each in self._tasks if each is not task)
                self._changed.notify_all()
        return bool(others)

    def _check_space(self, task: DownloadTask, missing_bytes: int, cache: Path) -> None:
        """Raises DownloadFailed. What other downloads still need is not free."""
        others = [each.download for each in self._tasks if each is not task and each.is_running]
        promised = sum(max(0, each.total_bytes - each.done_bytes) for each in others if each.total_bytes is not None)
        problem = disk_problem(missing_bytes, free_bytes(cache) - promised, self._reserve_bytes, str(cache))
        if problem:
            raise DownloadFailed(problem)


def _within(seconds: float, name: RepositoryName, call: Callable[[], Result]) -> Result:
    """What a call that waits for a server returns. Raises DownloadFailed after so many seconds, and what it raises."""
    (begun,) = begin_calls([call], 1)
    try:
        return begun.result(seconds)
    except TimeoutError:
        raise DownloadFailed(
            f"{name} cannot be downloaded: the server did not describe it within {seconds:.0f} s; try again later"
        ) from None
