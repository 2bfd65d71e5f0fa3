"""The real gunicorn.conf.py and ProxyWorker with a fake service and small WSGI applications.

Run as `python gunicorn_probe.py FOLDER SERVER_SETTINGS_AS_JSON`; FOLDER/events lists the calls to the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import flask
from gunicorn.app.base import BaseApplication

from workers.gunicorn_worker.worker import CannotStart

FOLDER = Path(sys.argv[1])
SERVER = json.loads(sys.argv[2])
SLEEPER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else the parent died before the line above
    os.execvp("sleep", ["sleep", "1000"])
"""


def record(event: str) -> None:
    with (FOLDER / "events").open("a") as events:
        events.write(f"{event}\n")


class FakeServices:
    """Records every call; drained when no /stream is running; owns one child process, like a llama-server."""

    def __init__(self) -> None:
        self.is_draining = False
        self.streams = 0
        spawned = threading.Event()
        threading.Thread(target=self._own_child, args=(spawned,), daemon=True).start()
        spawned.wait(5)

    def _own_child(self, spawned: threading.Event) -> None:
        # The parent-death signal is tied to this thread, so it must not end.
        self.child = subprocess.Popen([sys.executable, "-c", SLEEPER, str(os.getpid())])
        spawned.set()
        self.child.wait()

    def begin_drain(self) -> None:
        self.is_draining = True
        record("begin_drain")

    def wait_drained(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.streams and time.monotonic() < deadline:
            time.sleep(0.01)
        record(f"drained {self.streams == 0}")
        return self.streams == 0

    def close(self, timeout: float) -> None:
        self.child.terminate()
        record("close")

    def kill(self) -> None:
        self.child.kill()
        record("kill")

    def reload(self) -> None:
        record(f"reload {threading.current_thread().name}")


def hold() -> bytes:
    """Occupies its thread until FOLDER/released is there; FOLDER/holding lists those that do."""
    with (FOLDER / "holding").open("a") as holding:
        holding.write("one\n")
    deadline = time.monotonic() + 20
    while not (FOLDER / "released").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return b"held"


def pieces(services: FakeServices, count: int, pause_seconds: float, piece: bytes):
    try:
        for _ in range(count):
            yield piece
            time.sleep(pause_seconds)
    finally:
        services.streams -= 1


def failing_pieces():
    yield b"half"
    raise ValueError("the other half is missing")


def flask_application() -> flask.Flask:
    """Routes that read the body like ours, with or without werkzeug's limit, and one that hides all failures."""
    application = flask.Flask(__name__)

    @application.errorhandler(Exception)
    def failed(error: Exception):
        return f"flask saw {error!r}", 500

    @application.post("/flask")
    def echo():
        flask.request.max_content_length = int(flask.request.args["limit"]) if "limit" in flask.request.args else None
        return flask.request.get_data()

    @application.post("/flask/deaf")
    def deaf():
        with contextlib.suppress(BaseException):
            flask.request.get_data()
        return "all is well"

    return application


def application(services: FakeServices):
    with_flask = flask_application()

    def answer(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path.startswith("/flask"):
            return with_flask(environ, start_response)
        if path == "/stream":
            count, pause_seconds, piece_bytes = query.split(",")
            services.streams += 1
            start_response("200 OK", [])
            return pieces(services, int(count), float(pause_seconds), b"x" * int(piece_bytes))
        if path == "/failing":
            start_response("200 OK", [])
            return failing_pieces()
        if path == "/short":
            start_response("200 OK", [("Content-Length", "100")])
            return [b"half"]
        body = {
            "/ping": lambda: b"pong",
            "/livez": lambda: b"alive",
            "/pids": lambda: json.dumps([os.getpid(), services.child.pid]).encode(),
            "/readyz": lambda: b"draining" if services.is_draining else b"ready",
            "/echo": lambda: environ["wsgi.input"].read(),
            "/sum": lambda: str(len(environ["wsgi.input"].read())).encode(),
            "/late": lambda: time.sleep(float(query)) or environ["wsgi.input"].read(),
            "/unread": lambda: b"not interested",
            "/hold": hold,
            "/bug": lambda: 1 // 0,
        }[path]()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return answer


class Probe(BaseApplication):
    def load_config(self) -> None:
        conf = Path(__file__).parents[2] / "gunicorn.conf.py"
        for name, value in runpy.run_path(str(conf)).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        for name, value in SERVER.pop("gunicorn", {}).items():
            self.cfg.set(name, value)

    def load_service(self, refusals):
        if "refuse_to_start" in SERVER:
            raise CannotStart(SERVER["refuse_to_start"])
        services = FakeServices()
        record(f"worker {os.getpid()} {services.child.pid}")
        return services, application(services)


if __name__ == "__main__":
    stub = types.ModuleType("app.settings.configuration")
    upstream = types.SimpleNamespace(stall_seconds=300.0)
    stub.load_settings = lambda: types.SimpleNamespace(server=types.SimpleNamespace(**SERVER), upstream=upstream)
    sys.modules["app.settings.configuration"] = stub
    Probe().run()
