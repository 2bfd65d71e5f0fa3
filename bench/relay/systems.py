"""The measured systems: our service and its peers, each in front of the same fake llama-server.

A system that is not available reports why and is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from bench.relay import nginx
from bench.relay.stand_in import OTHER_CORE, Programs, environment
from tests.helpers.service import Service, serving, wait_for
from workers.catalog.demo_model import write_demo_model
from workers.server.child_process import free_port

ROOT = Path(__file__).parents[2]
SLOTS = 256  # the maximum of a llama-server
MODELS = tuple(f"stand-in-{number}" for number in range(4))  # enough servers for a thousand streams
THREADS = 1100  # each stream holds one thread

# Start without a master key, and use the built-in model prices instead of fetching them.
LITELLM = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@dataclass(frozen=True)
class Surroundings:
    """What a system needs to start: its own folder, the programs, and the port of a fake server."""

    folder: Path
    programs: Programs
    upstream_port: int


@dataclass(frozen=True)
class Running:
    """A system that is up. `processes` returns the pids of the proxy alone; `service` is set for ours."""

    port: int
    processes: Callable[[], list[int]]
    service: Service | None = None


@dataclass(frozen=True)
class System:
    name: str
    start: Callable[[Surroundings], AbstractContextManager[Running]]
    most_streams: int
    missing: Callable[[], str] = str  # why it is not available; "" if it is
    clients: int = 32  # concurrent clients for small answers


def earlier(checkout: Path) -> System:
    """Ours as it is in another checkout, whose .venv has the program; on this Python and its packages."""
    program = ("-P", str(checkout / ".venv" / "bin" / "llama-smart-proxy"))
    return System(
        "earlier",
        lambda given: ours(given, program=program, plain={"PYTHONPATH": str(checkout)}, GPU__ENABLED="false"),
        most_streams=1000,
    )


@contextlib.contextmanager
def ours(given: Surroundings, **options: Any) -> Iterator[Running]:
    """`llama-smart-proxy serve` with the fake server as its llama-server and every model loaded."""
    path = given.folder / "config.json"
    path.write_text(json.dumps(our_settings(given)))
    with serving(given.folder, "--config", str(path), **options) as service:
        for model in MODELS:
            assert service.chat(model).status_code == 200, service.output
        assert all(engine.cpu_affinity() == [OTHER_CORE] for engine in service.engines()), "wrong core"
        yield Running(int(service.url.rpartition(":")[2]), lambda: [service.master.pid, service.worker.pid], service)


def our_settings(given: Surroundings) -> dict[str, object]:
    """Minimal settings: the engine, and enough threads and slots for a thousand streams."""
    model = write_demo_model(given.folder / "models")
    return {
        "engine": {"binary": str(given.programs.upstream), "env": environment()},
        "server": {"threads": THREADS},
        "defaults": {"parallel": SLOTS, "ctx_size": 32768},
        "models": {name: {"path": str(model)} for name in MODELS},
    }


@contextlib.contextmanager
def direct(given: Surroundings) -> Iterator[Running]:
    yield Running(given.upstream_port, list)


def nginx_peer(given: Surroundings) -> AbstractContextManager[Running]:
    port = free_port()
    file = given.folder / "nginx.conf"
    file.write_text(nginx.configuration(given.folder, port, given.upstream_port))
    return peer(port, [_nginx(), "-e", f"{given.folder}/error.log", "-c", str(file)])


def naive(given: Surroundings) -> AbstractContextManager[Running]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "bench.relay.naive:app", "--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--threads", "300", "--worker-connections", "2000", "--log-level", "warning"),
    ]
    return peer(port, command, UPSTREAM=f"http://127.0.0.1:{given.upstream_port}")


def litellm(given: Surroundings) -> AbstractContextManager[Running]:
    port = free_port()
    engine = {"api_base": f"http://127.0.0.1:{given.upstream_port}/v1", "api_key": "none"}
    models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **engine}} for name in MODELS]
    file = given.folder / "litellm.json"  # JSON is YAML
    file.write_text(json.dumps({"model_list": models}))
    command = ["litellm", "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    return peer(port, command, **LITELLM)


def _nginx() -> str:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""


_SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # llama-server logs ten lines per request


@contextlib.contextmanager
def peer(port: int, command: list[str], **variables: str) -> Iterator[Running]:
    """Run a peer that is one command; all its processes count."""
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, **_SILENT) as process:
        root = psutil.Process(process.pid)
        try:
            wait_for(lambda: _answers(port) or process.poll() is not None, 60, lambda: f"{command[0]} does not answer")
            assert process.poll() is None, f"{command[0]} exited"
            yield Running(port, lambda: [root.pid, *(child.pid for child in root.children(recursive=True))])
        finally:
            for child in (*root.children(recursive=True), root):
                with contextlib.suppress(psutil.Error):
                    child.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return ask(port).ok
    return False


def ask(port: int) -> requests.Response:
    """Request a small answer."""
    body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
    return requests.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=20)


def _no_command(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"no {name} on PATH"


# --- a real llama-server with a model of 1.7 MB: direct, behind ours, behind its router mode -----------------------

REAL_CLIENTS = 8
# The options that our service passes for such a model, by default or by its settings.
REAL_OPTIONS = ("--threads", "1", "--parallel", str(REAL_CLIENTS), "--ctx-size", "4096", "--cache-ram", "0")


@contextlib.contextmanager
def ours_real(given: Surroundings) -> Iterator[Running]:
    settings = {
        "engine": {"binary": shutil.which("llama-server")},
        "models": {MODELS[0]: {"path": str(_real_model(given)), "parallel": REAL_CLIENTS, "ctx_size": 4096}},
    }
    path = given.folder / "config.json"
    path.write_text(json.dumps(settings))
    with serving(given.folder, "--config", str(path)) as service:
        assert service.chat(MODELS[0]).status_code == 200, service.output
        yield Running(int(service.url.rpartition(":")[2]), lambda: [service.master.pid, service.worker.pid])


@contextlib.contextmanager
def router(given: Surroundings) -> Iterator[Running]:
    """llama-server in router mode: it starts a child for each model and forwards requests."""
    port = free_port()
    folder = str(_real_model(given).parent)
    command = ["llama-server", "--models-dir", folder, "--host", "127.0.0.1", "--port", str(port), *REAL_OPTIONS]
    with peer(port, command) as running:
        yield Running(port, lambda: running.processes()[:1])


@contextlib.contextmanager
def direct_real(given: Surroundings) -> Iterator[Running]:
    port = free_port()
    model = str(_real_model(given))
    with peer(port, ["llama-server", "--model", model, "--port", str(port), *REAL_OPTIONS]):
        yield Running(port, list)


def _real_model(given: Surroundings) -> Path:
    """The demo model, under the file name by which the router mode finds it."""
    return write_demo_model(given.folder / "models").rename(given.folder / "models" / f"{MODELS[0]}.gguf")


_NO_ENGINE = _no_command("llama-server")

SYSTEMS = (
    System("ours", ours, most_streams=1000),
    System("direct", direct, most_streams=1000),
    System("nginx", nginx_peer, most_streams=1000, missing=lambda: "" if _nginx() else "nginx is not installed"),
    System("naive", naive, most_streams=256),
    System("litellm", litellm, most_streams=16, missing=_no_command("litellm")),
    System("ours-real", ours_real, most_streams=0, missing=_NO_ENGINE, clients=REAL_CLIENTS),
    System("direct-real", direct_real, most_streams=0, missing=_NO_ENGINE, clients=REAL_CLIENTS),
    System("router", router, most_streams=0, missing=_NO_ENGINE, clients=REAL_CLIENTS),
)
