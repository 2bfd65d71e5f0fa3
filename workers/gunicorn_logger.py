"""One form for every log line, gunicorn's too: time, level, thread (the actor's name), logger, message."""

from __future__ import annotations

from gunicorn.glogging import Logger

LOG_FORMAT = "%(asctime)s %(levelname)s [%(threadName)s] %(name)s: %(message)s"


class ServiceLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger with our format."""

    error_fmt = LOG_FORMAT
    datefmt = None
