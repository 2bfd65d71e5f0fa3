"""A pytest plugin for llama.cpp's tests: prevents downloads and writes the outcome of each test as a line of JSON.

Its changes to the tests are the same for both runs: files of models.py replace downloads, and expected words of the
original models are not checked. Through the proxy, it adds the model to requests by `?model=` in the URL, which leaves
the body unchanged.

Environment: SERVER_TESTS_OUTCOMES, SERVER_TESTS_MODELS, and through the proxy SERVER_TESTS_LEFT_OUT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from bench.server_tests.models import fetched

TEST_SECONDS = 90
BY_ADDRESS = ("/props", "/slots", "/metrics", "/lora-adapters", "/v1/stream")
NAMELESS = ("/health", "/v1/health", "/models", "/v1/models")

sys.modules.setdefault("wget", types.ModuleType("wget"))  # imported by the tests, only used to download models
_model = "tinyllama-2"  # of the most recently started server
_address = ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Patch `utils` after the tests' conftest and before their modules, which import all of its names."""
    import utils

    models = Path(os.environ["SERVER_TESTS_MODELS"])
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.match_regex = lambda regex, text: isinstance(text, str)
    utils.download_file = lambda url, output_file_path=None: str(fetched(url, models))
    if _left_out():
        _start_through(utils.ServerProcess)
        _name_models()


def _left_out() -> Path | None:
    name = os.environ.get("SERVER_TESTS_LEFT_OUT")
    return Path(name) if name else None


# --- through the proxy ----------------------------------------------------------------------------------------


def _start_through(process: Any) -> None:
    """Have `start` load the model, as llama-server does; a failed load counts as a server that died."""
    import requests

    start = process.start

    def started(self: Any, *arguments: Any, **options: Any) -> None:
        global _model, _address
        _model = sorted((self.model_alias or "tiny").split(","))[0]
        _address = f":{self.server_port}"
        start(self, *arguments, **options)
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else None
        url = f"http://127.0.0.1:{self.server_port}/tokenize"
        answer = requests.post(url, json={"model": _model, "content": ""}, headers=headers, timeout=60)
        if not answer.ok:
            raise RuntimeError(f"Server process died: {answer.text}")

    process.start = started


def _name_models() -> None:
    """Add the model to every request of requests and of the OpenAI client."""
    import openai
    import requests

    client: Any = next(each for each in openai.DefaultHttpxClient.__mro__ if "send" in vars(each))
    send, send_http = requests.Session.send, client.send

    def send_named(self: Any, request: Any, **options: Any) -> Any:
        if urlsplit(request.url).netloc.endswith(_address):
            request.url = named(request.method, request.url, request.body, _model)
        return send(self, request, **options)

    def send_http_named(self: Any, request: Any, **options: Any) -> Any:
        request.url = type(request.url)(named(request.method, str(request.url), request.read(), _model))
        return send_http(self, request, **options)

    requests.Session.send, client.send = send_named, send_http_named  # type: ignore[method-assign]


def named(method: str, url: str, body: bytes | str | None, model: str) -> str:
    """The URL with the model added, if the proxy needs one and neither URL nor body has it."""
    parts = urlsplit(url)
    needs = parts.path in BY_ADDRESS if method == "GET" else parts.path not in NAMELESS
    if not needs or "model" in parse_qs(parts.query) or _names_one(body):
        return url
    return f"{url}{'&' if parts.query else '?'}model={quote(model, safe='')}"


def _names_one(body: bytes | str | None) -> bool:
    try:
        fields = json.loads(body or b"null")
    except ValueError:
        return False
    return isinstance(fields, dict) and isinstance(fields.get("model"), str)


# --- outcomes -------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that hangs."""

    def time_out(number: int, frame: object) -> None:
        raise TimeoutError(f"timed out after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, time_out)
    signal.alarm(TEST_SECONDS)
    if left_out := _left_out():
        left_out.unlink(missing_ok=True)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write one line for each test that ran or failed in its setup."""
    if report.when != "call" and report.passed:
        return
    if report.when == "teardown":
        return
    outcome = {"test": report.nodeid, "outcome": report.outcome, "why": _why(report)}
    if (left_out := _left_out()) and report.failed and left_out.exists():
        outcome["left_out"] = left_out.read_text()
    with open(os.environ["SERVER_TESTS_OUTCOMES"], "a") as file:
        file.write(json.dumps(outcome) + "\n")


def _why(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr)[-300:]
    return f"{Path(crash.path).name}:{crash.lineno}: {crash.message.splitlines()[0][:300]}"
