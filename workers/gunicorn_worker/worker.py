"""ProxyWorker: gunicorn's worker for one process that owns the GPUs.

A subclass of gunicorn's base class, its documented extension point: gunicorn forks, supervises and parses; connections
are the ConnectionLoop's, signals the ServiceControl's.
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
from workers.gunicorn_worker.service_control import ServiceControl
from workers.gunicorn_worker.timeouts import WorkerTimeouts

REQUIRED_SETTINGS = {"workers": 1, "max_requests": 0, "preload_app": False, "reuse_port": False, "certfile": None}


class CannotStart(AppImportError):
    """Raised by `load_service` when a new attempt would fail too: gunicorn prints the message and stops (exit 4)."""


class ProxyWorker(Worker):
    """The worker; its service comes from the application's `load_service`."""

    timeouts = WorkerTimeouts()  # gunicorn.conf.py sets those of the configuration, after the fork

    @classmethod
    def check_config(cls, cfg: Config, log: Any) -> None:
        """Refuse what would make a second owner of the GPUs or is not supported. Raises RuntimeError."""
        required = REQUIRED_SETTINGS.items()
        wrong = [f"{name} must be {value!r}" for name, value in required if getattr(cfg, name) != value]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def init_process(self) -> None:
        """After the fork; gunicorn's own goes on with the three methods below, in their order."""
        self.loop = ConnectionLoop(self.sockets, self.cfg, self.timeouts)
        self.control = ServiceControl(self.loop, self.timeouts)
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        self.control.install_signal_handlers()

    def load_wsgi(self) -> None:
        """Start the service and the Flask application: after the fork, with our signal handlers in place."""
        self.control.service, self.application = self.app.load_service()
        warn_if_untested()

    def run(self) -> None:
        handler = RequestHandler(self.application, self.cfg, self.timeouts, self.loop.keeps_connections)
        self.loop.run(handler, self.notify)


def exit_process(worker: ProxyWorker) -> None:
    """The worker's last act. A worker that never booted is left to gunicorn, whose exit codes stop the arbiter."""
    if worker.booted and worker.pid == os.getpid():  # the arbiter calls this hook too, for a worker it cannot find
        worker.control.exit_process()
