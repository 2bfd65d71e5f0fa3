"""AccessLog: one line for each inference request, written by a thread of its own.

A request's thread only queues the record: to write the line itself, it would hold the log handler's lock for as long as
the kernel takes to accept the line, and every other request that ends meanwhile would wait for it.
"""

from __future__ import annotations

import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

from workers.telemetry.log_format import LOG_FORMAT

NAME_CHARACTERS = 100  # of the model name in the request
MAX_QUEUED = 100_000  # lines; beyond that, new ones are dropped
MESSAGE = "request status=%d path=%s model=%s asked=%r seconds=%.3f prompt=%d completion=%d id=%s"
ACCESS_LOG_FORMAT = LOG_FORMAT.replace("%(threadName)s", "access-log")  # not the request's thread


class AccessLog:
    """Owner of the queue and of the thread that writes its lines to `file`, and passes them to `others`."""

    def __init__(self, *others: logging.Handler, file: TextIO | None = None) -> None:
        lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        writer = logging.StreamHandler(file or sys.stderr)
        writer.setFormatter(logging.Formatter(ACCESS_LOG_FORMAT))
        self._handler = _BoundedQueueHandler(lines)
        self._listener = QueueListener(lines, writer, *others)

    def start(self) -> None:
        self._listener.start()

    def close(self) -> None:
        """Write the lines that are queued, then end the thread."""
        self._listener.stop()

    def note(
        self,
        status: int,
        path: str,
        model: str,
        requested_name: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        request_id: str,
    ) -> None:
        """Queue the line of a request that has ended. `requested_name` is the model name as the client sent it."""
        name = requested_name[:NAME_CHARACTERS]
        values = (status, path, model, name, seconds, prompt_tokens, completion_tokens, request_id)
        # Straight to the handler: no logger's level or caller lookup is wanted.
        self._handler.emit(logging.LogRecord(__name__, logging.INFO, __file__, 0, MESSAGE, values, None))


class _BoundedQueueHandler(QueueHandler):
    """Leaves the formatting to the listener's thread: the values are immutable and stay in this process."""

    def __init__(self, lines: queue.SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self._lines = lines

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < MAX_QUEUED:
            self._lines.put_nowait(record)
