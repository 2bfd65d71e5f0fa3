"""gunicorn's log lines in our format."""

from __future__ import annotations

from gunicorn.glogging import Logger

from workers.telemetry.log_format import LOG_FORMAT


class ServiceLogger(Logger):
    """gunicorn's logger with our log format."""

    error_fmt = LOG_FORMAT
    datefmt = None
