"""A server with one small constant answer, for bench.relay.steps: the cost of a request without any proxying.

    python -m bench.relay.constant PORT gunicorn|flask|worker

`gunicorn`: its threaded worker with a bare WSGI callable; `flask`: the same with Flask; `worker`: our worker with the
bare callable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, request
from gunicorn.app.base import BaseApplication

from workers.gunicorn_worker.worker import ProxyWorker

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"}}]}'


def bare(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


def by_flask() -> Flask:
    app = Flask("constant")

    @app.post("/v1/chat/completions")
    def chat_completions() -> Response:
        request.get_data()
        return Response(ANSWER, content_type="application/json")

    return app


class NoService:
    """What ProxyWorker drains and stops, where there is nothing."""

    def begin_drain(self) -> None: ...
    def wait_drained(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None: ...
    def kill(self) -> None: ...
    def reload(self) -> None: ...


class Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, port: int, kind: str) -> None:
        self._port, self._kind = port, kind
        super().__init__()

    def load_config(self) -> None:
        worker = ProxyWorker if self._kind == "worker" else "gthread"
        settings = {"worker_class": worker, "bind": f"127.0.0.1:{self._port}", "threads": 300, "keepalive": 75}
        for name, value in (settings | {"worker_connections": 2000, "loglevel": "warning"}).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return by_flask() if self._kind == "flask" else bare

    def load_service(self, refusals: Any) -> tuple[NoService, Any]:
        return NoService(), bare


if __name__ == "__main__":
    Application(int(sys.argv[1]), sys.argv[2]).run()
