"""The process of one download: it can be killed at any time, and none of its work, decryption
or waiting for a server holds Python's lock of the service.

It ends with its parent, whose end closes the channel. The token comes by the environment, as huggingface_hub reads it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from app.entities.repository import Repository, RepositoryFile
from workers.downloads.cache_layout import InvalidAnswer, RepositoryFolder


@dataclass(frozen=True, slots=True)
class Job:
    """What to download: these files of a repository, at its revision, into a cache."""

    cache: Path
    repository: Repository
    files: tuple[RepositoryFile, ...]
    reserve_bytes: int  # of the disk


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What the process reports. `what`: downloading, verifying (`text`: the file), waiting (why), failed (the problem)
    or complete."""

    what: str
    text: str = ""


def run_transfer(channel_fd: int) -> None:
    """Do the one job that the channel brings."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the parent's
    Path("/proc/self/comm").write_text("download")  # for ps and top
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # it can be started anew, unlike the service
    channel = Connection(channel_fd)
    job: Job = channel.recv()
    threading.Thread(target=_exit_with_parent, args=(channel,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        channel.send(_outcome(job, channel))


def _exit_with_parent(channel: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        channel.recv()
    os._exit(0)


def _outcome(job: Job, channel: Connection) -> TransferReport:
    from workers.downloads.failures import failure_of

    try:
        _download(job, channel)
    except InvalidAnswer as error:
        return TransferReport("failed", str(error))
    except Exception as error:  # of any kind: the parent says what it was
        return TransferReport("failed", str(failure_of(error, job.repository.repo)))
    return TransferReport("complete")


def _download(job: Job, channel: Connection) -> None:
    """The files appear in the cache together, so that nobody finds half a model."""
    from workers.downloads.transfer import Transfer, source_of

    folder, commit = RepositoryFolder(job.cache, job.repository.repo), job.repository.revision
    transfer = Transfer(job.reserve_bytes, lambda what, text: channel.send(TransferReport(what, text)))
    sources = [source_of(folder, commit, file) for file in job.files]
    if all(folder.is_current(each.etag, each.file.path) for each in sources):
        return  # a path that changes would have a loaded model loaded again
    for source in sources:
        transfer.download(source)
    for source in sources:
        folder.link(source.etag, commit, source.file.path)
    folder.set_main(commit)
