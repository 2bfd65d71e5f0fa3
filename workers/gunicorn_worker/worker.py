"""ProxyWorker: gunicorn's worker for one process that owns the GPUs.

A subclass of gunicorn's base class, its documented extension point. gunicorn forks, supervises and parses;
ConnectionLoop handles connections, ServiceControl handles signals.
"""

from __future__ import annotations

import os
from typing import Any

from gunicorn.config import Config
from gunicorn.errors import AppImportError
from gunicorn.workers.base import Worker

from workers.gunicorn_worker.compatibility import warn_if_untested
from workers.gunicorn_worker.loop import ConnectionLoop
from workers.gunicorn_worker.request_handler import RequestHandler
from workers.gunicorn_worker.signals import ServiceControl
from workers.gunicorn_worker.timeouts import WorkerTimeouts

REQUIRED_SETTINGS = {"workers": 1, "max_requests": 0, "preload_app": False, "reuse_port": False, "certfile": None}


class CannotStart(AppImportError):
    """Raised by `load_service` when retrying is pointless: gunicorn prints the message and exits with status 4."""


class ProxyWorker(Worker):
    """The worker; the application's `load_service` provides its service."""

    timeouts = WorkerTimeouts()  # gunicorn.conf.py sets the configured ones after the fork

    @classmethod
    def check_config(cls, cfg: Config, log: Any) -> None:
        """Reject settings that allow a second owner of the GPUs or are unsupported. Raises RuntimeError."""
        required = REQUIRED_SETTINGS.items()
        wrong = [f"{name} must be {value!r}" for name, value in required if getattr(cfg, name) != value]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def init_process(self) -> None:
        """Runs after the fork; gunicorn's implementation calls the three methods below in this order."""
        self.loop = ConnectionLoop(self.sockets, self.cfg, self.timeouts)
        self.control = ServiceControl(self.loop, self.timeouts)
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        self.control.install_signal_handlers()

    def load_wsgi(self) -> None:
        """Start the service and the Flask application; our signal handlers are already installed."""
        service, self.application = self.app.load_service(self.loop.refusals)
        self.control.serve(service)
        warn_if_untested()

    def run(self) -> None:
        loop = self.loop
        handler = RequestHandler(self.application, self.cfg, self.timeouts, loop.keeps_connections, loop.refusals)
        self.loop.run(handler, self.notify)


def exit_process(worker: ProxyWorker) -> None:
    """Exit the worker. gunicorn exits one that has not booted itself, with a status that stops the arbiter."""
    if worker.booted and worker.pid == os.getpid():  # the arbiter also calls this hook, for a worker it cannot find
        worker.control.exit_process()
