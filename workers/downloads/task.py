"""DownloadTask: the state of one download, written under the lock of all. Readers get frozen values without it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from app.entities.download import Download, DownloadState
from app.entities.model_name import folded
from app.entities.repository import RepositoryName
from app.errors import ProxyError
from workers.downloads.counts import DownloadCounts
from workers.downloads.transfer_child import TransferChild


class Canceled(Exception):
    """The download was canceled meanwhile: its thread has nothing more to do."""


class DownloadTask:
    """One download: `update` and the rest are called by its thread, `cancel` by any."""

    def __init__(
        self, name: RepositoryName, changed: threading.Condition, counts: DownloadCounts, key: str = ""
    ) -> None:
        """`changed`: the lock, notified at each change. `counts`: those of all downloads. `key`: as for `start`."""
        self.name, self.key = name, key
        self.download = Download(str(name), DownloadState.CHECKING, time.time())
        self.names = frozenset({folded(str(name))})  # that it is asked for by; written by Downloads alone
        self.error: ProxyError | None = None  # why it failed
        self.thread_ended = threading.Event()
        self._changed = changed
        self._counts = counts
        self._child: TransferChild | None = None
        self._ended_at = 0.0  # monotonic seconds

    @property
    def is_running(self) -> bool:
        return self.download.is_running

    def is_shown(self, now: float, seconds_after_end: float) -> bool:
        return self.is_running or now < self._ended_at + seconds_after_end

    def update(self, **changes: Any) -> None:
        """Raises Canceled."""
        with self._changed:
            if not self.is_running:
                raise Canceled
            changed = replace(self.download, **changes)
            if changed != self.download:
                self._become(changed)

    def started(self, child: TransferChild) -> None:
        """From now on, `cancel` kills this process. Raises Canceled."""
        with self._changed:
            if not self.is_running:
                raise Canceled
            self._child = child

    def end(self, state: DownloadState, error: ProxyError | None = None) -> bool:
        """Whether it was running."""
        with self._changed:
            if not self.is_running:
                return False
            self.error, self._ended_at = error, time.monotonic()
            problem, code = (str(error), error.code) if error else ("", "")
            self._become(replace(self.download, state=state, bytes_per_second=None, problem=problem, code=code))
            return True

    def _become(self, changed: Download) -> None:
        """Under the lock."""
        self._counts.note(self.download, changed)
        self.download = changed
        self._changed.notify_all()

    def cancel(self) -> bool:
        """Whether it was running. The partial download is kept."""
        with self._changed:
            if self._child is not None:
                self._child.kill()
            return self.end(DownloadState.CANCELED)
