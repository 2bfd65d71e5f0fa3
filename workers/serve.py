"""Runs the service under gunicorn, in this very process.

In process, because `gunicorn module:app` puts the current directory first on the import path, where a folder named
app/ would be taken for ours.
"""

from __future__ import annotations

import runpy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication

from app.settings.configuration import ConfigurationError, load_settings
from app.settings.reload import applicable_settings
from app.settings.schema import Settings
from app.web import create_app
from workers.gunicorn_worker.worker import CannotStart
from workers.runtime import Runtime
from workers.server.open_files import raise_soft_limit
from workers.telemetry.refusal_log import RefusalLog

GUNICORN_CONF = Path(__file__).resolve().parent.parent / "gunicorn.conf.py"


class Application(BaseApplication):  # type: ignore[misc]
    """What gunicorn runs: its settings from gunicorn.conf.py, everything else built in the worker."""

    def __init__(self, started: Settings, announce: Callable[[Runtime, str], None]) -> None:
        self._started = started
        self._announce = announce
        super().__init__()

    def load_config(self) -> None:
        raise_soft_limit()  # before the worker counts what it may open
        for name, value in runpy.run_path(str(GUNICORN_CONF)).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        self.cfg.set("post_worker_init", self._announce_worker)

    def load_service(self, refusals: RefusalLog) -> tuple[Runtime, Any]:
        """The service and its WSGI application, started. Called by ProxyWorker after the fork, with its refusal log.

        A worker that replaces one which died reads the configuration again, but listens on the same sockets.
        """
        try:
            runtime = Runtime(applicable_settings(load_settings(), self._started), refusals)
            runtime.start()
        except (ConfigurationError, OSError) as error:
            raise CannotStart(f"cannot start: {error}") from error
        return runtime, create_app(runtime.services)

    def _announce_worker(self, worker: Any) -> None:
        """In a thread: it may wait for the GPUs, and requests are answered meanwhile."""
        facts = worker.control.service, _address(worker.sockets[0].getsockname())
        threading.Thread(target=self._announce, args=facts, name="announce", daemon=True).start()


def _address(name: Any) -> str:
    """The URL of a listening socket."""
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
