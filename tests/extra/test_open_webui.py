"""Open WebUI's API with both of its connections, OpenAI's and Ollama's, to the real service.

`make test-open-webui` runs it; its environment takes 7 GB.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.helpers.service import Service, serving, wait_for

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "clients" / "open-webui" / "bin" / "open-webui"


@pytest.fixture
def service(tmp_path: Path):
    with serving(tmp_path / "service") as running:
        yield running


@pytest.fixture
def open_webui(service: Service, tmp_path: Path) -> Iterator[str]:
    """Its address, with a token of its only user."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DATA_DIR": str(tmp_path),
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "secret",
        "OFFLINE_MODE": "true",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "RAG_EMBEDDING_ENGINE": "openai",
        "OPENAI_API_BASE_URL": f"{service.url}/v1",
        "OPENAI_API_KEY": "none",
        "OLLAMA_BASE_URL": service.url,
    }
    with (tmp_path / "log").open("w") as log:
        command = [str(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_up(url), 240, lambda: (tmp_path / "log").read_text()[-2000:])
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.mark.timeout(360)
@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is missing")
def test_both_connections_list_the_model_and_chat(service: Service, open_webui: str):
    with requests.Session() as session:
        user = session.post(f"{open_webui}/api/v1/auths/signin", json={"email": "", "password": ""}).json()
        session.headers["Authorization"] = f"Bearer {user['token']}"
        models = {model["id"]: model["owned_by"] for model in session.get(f"{open_webui}/api/models").json()["data"]}
        assert models == {"demo": "openai", "demo:latest": "ollama"}
        for name in models:
            answer = session.post(f"{open_webui}/api/chat/completions", json=chat(name)).json()
            assert answer["choices"][0]["finish_reason"] == "length", answer
            assert answer["usage"]["completion_tokens"] == 4
            stream = session.post(f"{open_webui}/api/chat/completions", json=chat(name) | {"stream": True}).text
            assert stream.rstrip().endswith("data: [DONE]"), stream
    assert "path=/v1/chat/completions" in service.output
    assert "path=/api/chat" in service.output


def chat(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello!"}]
    return {"model": model, "messages": messages, "max_tokens": 4, "stream": False}
