"""HistoryHandler: puts the service's log lines into the history, too. The journal keeps them; no file is written."""

from __future__ import annotations

import logging

from app.entities.log_line import SERVICE
from workers.logs.history import LogHistory

LOGGERS = ("", "gunicorn.error")  # gunicorn's does not propagate


class HistoryHandler(logging.Handler):
    """Adds records to the history. `line_format` may begin with the time, which is omitted: each line has its own."""

    def __init__(self, history: LogHistory, line_format: str) -> None:
        super().__init__()
        self._history = history
        self.setFormatter(logging.Formatter(line_format.removeprefix("%(asctime)s ")))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._history.add(SERVICE, "", self.format(record).splitlines(), record.created)
        except Exception:
            self.handleError(record)

    def start(self) -> None:
        """Take the records of the whole process."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def stop(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
