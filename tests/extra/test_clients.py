"""Real clients, unmodified, against the real service: programs in `clients/`, each run in an environment of its own.

`make test-clients` makes the environments; a program whose environment is missing is skipped.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.helpers.service import Service, serving
from workers.catalog.demo_model import write_demo_model

CLIENTS = Path(__file__).parent / "clients"
BUILD = Path(__file__).resolve().parents[2] / "build" / "clients"
CHROMIUM = shutil.which("chromium")
KEY = "key-of-the-clients"


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory):
    """A page of another origin than the service's."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>A page</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, page_url: str):
    folder = tmp_path_factory.mktemp("clients")
    demo = str(write_demo_model(folder))
    models = {
        "demo": {"path": demo},
        "embedder": {"path": demo, "args": ["--embeddings"]},
        "fragile": {"path": demo},  # its streams are cut
    }
    configuration = {
        "server": {"cors_origins": [page_url]},
        "models": models,
        "keys": [{"name": "clients", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
    }
    (folder / "config.json").write_text(json.dumps(configuration))
    with serving(folder, "--config", str(folder / "config.json")) as running:
        yield running


@pytest.mark.parametrize(
    ("environment", "program"),
    [
        ("openai-2", "openai_sdk.py"),
        *(("python", program.name) for program in sorted((CLIENTS / "python").glob("*.py"))),
    ],
)
def test_a_python_client_works_unmodified(service: Service, tmp_path: Path, environment: str, program: str):
    python = BUILD / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is missing")
    run([str(python), str(CLIENTS / "python" / program)], service, tmp_path)


@pytest.mark.parametrize("program", sorted(program.name for program in (CLIENTS / "node").glob("*.mjs")))
def test_a_node_client_works_unmodified(service: Service, page_url: str, tmp_path: Path, program: str):
    if not (BUILD / "node" / "node_modules").exists():
        pytest.skip("node or its packages are missing")
    if program == "page.mjs" and CHROMIUM is None:
        pytest.skip("chromium is not installed")
    script = shutil.copy(CLIENTS / "node" / program, BUILD / "node")  # imports are looked up beside the script
    run(["node", str(script)], service, tmp_path, PAGE_URL=page_url, CHROMIUM=CHROMIUM or "")


def run(command: list[str], service: Service, folder: Path, **more: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "BASE_URL": service.url, "KEY": KEY, **more}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
