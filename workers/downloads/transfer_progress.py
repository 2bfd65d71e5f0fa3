"""Runs the process of one download, and turns what it says and the sizes of the files into the download's state."""

from __future__ import annotations

import logging
import time

from app.entities.download import DownloadState
from app.errors import DownloadFailed
from app.use_cases.downloads.rates import RateWindow
from workers.downloads.cache_layout import RepositoryFolder
from workers.downloads.task import DownloadTask
from workers.downloads.transfer_child import TransferChild
from workers.downloads.transfer_process import Job, TransferReport

log = logging.getLogger(__name__)

READ_SECONDS = 0.5  # between two readings of the sizes


def present_bytes(job: Job) -> int:
    """How much of the files is here already, or comes now by another process."""
    folder = RepositoryFolder(job.cache, job.repository.repo)
    return sum(min(file.size_bytes, folder.bytes_present(file.sha256)) for file in job.files if file.sha256)


def transfer(task: DownloadTask, job: Job) -> None:
    """Download the files; returns when they are complete. Raises DownloadFailed, and Canceled after the task was."""
    try:
        child = TransferChild(job)
    except OSError as error:
        raise DownloadFailed(f"the process of the download could not be started: {error}") from error
    try:
        task.started(child)
        _follow(task, job, child)
    finally:
        child.close()


def _follow(task: DownloadTask, job: Job, child: TransferChild) -> None:
    progress = RateWindow()
    while True:
        progress = progress.after(time.monotonic(), present_bytes(job))
        task.update(done_bytes=progress.readings[-1][1], bytes_per_second=progress.bytes_per_second)
        try:
            said = child.next(READ_SECONDS)
        except EOFError:
            task.update()  # raises Canceled if that is why
            raise DownloadFailed("the process of the download ended; the partial download is kept") from None
        if said and _is_end(task, said):
            task.update(done_bytes=present_bytes(job))
            return


def _is_end(task: DownloadTask, said: TransferReport) -> bool:
    """Raises DownloadFailed."""
    match said.what:
        case "complete":
            return True
        case "failed":
            raise DownloadFailed(said.text)
        case "waiting":
            log.warning("download waits model=%s reason=%r", task.download.model, said.text)
            task.update(problem=said.text)
        case _:
            task.update(state=DownloadState(said.what), file=said.text, problem="")
    return False
