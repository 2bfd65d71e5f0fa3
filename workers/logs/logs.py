"""ServiceLogs: all that is logged, as the composition root starts and ends it."""

from __future__ import annotations

from pathlib import Path

from workers.logs.engine_log import EngineLogs
from workers.logs.files import LogFiles
from workers.logs.history import LogHistory
from workers.logs.service_log import HistoryHandler
from workers.telemetry.access_log import ACCESS_LOG_FORMAT
from workers.telemetry.log_format import LOG_FORMAT


class ServiceLogs:
    """The history, and what writes to it."""

    def __init__(self, folder: Path, keeps_files: bool) -> None:
        """`folder`: of engines' files."""
        self.history = LogHistory()
        self._files = LogFiles(folder, keeps_files)
        self.engines = EngineLogs(self.history, self._files)
        self.access_lines = HistoryHandler(self.history, ACCESS_LOG_FORMAT)
        self._service_lines = HistoryHandler(self.history, LOG_FORMAT)

    def keep_files(self, keeps_files: bool) -> None:
        """A reload may change it."""
        self._files.is_enabled = keeps_files

    def start(self) -> None:
        """Take the service's lines from here on, and remove old files."""
        self._service_lines.start()
        self._files.remove_old()

    def close(self) -> None:
        self._service_lines.stop()
