"""A plugin of pytest for llama.cpp's tests: no downloads, and what became of each test as a line of JSON.

What it changes in the tests is the same both times, direct and through the proxy: models and files that would be
fetched are those of models.py, and the words that the right models would say are not asked for. Through the proxy, a
request says which model it is for: by `?model=` in its address, so that its body goes as it is.

Told by the environment: SERVER_TESTS_OUTCOMES, SERVER_TESTS_MODELS, and SERVER_TESTS_LEFT_OUT where it is the proxy.
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

sys.modules.setdefault("wget", types.ModuleType("wget"))  # imported by the tests, used to fetch models alone
_model = "tinyllama-2"  # of the server that was started last
_address = ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """After the tests' conftest, before their modules: those take all names of `utils` as they are by then."""
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
    """A start is over when the model is loaded, as llama-server's is. One that fails is a server that died."""
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
    """Of every request by requests, or by OpenAI's client, whatever it sends with."""
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
    """The address, with the model in it if neither it nor the body has one, and the proxy wants one there."""
    parts = urlsplit(url)
    needs = parts.path in BY_ADDRESS if method == "GET" else parts.path not in NAMELESS
    if not needs or "model" in parse_qs(parts.query) or _names_one(body):
        return url
    return f"{url}{'&' if parts.query else '?'}model={quote(model, safe='')}"


def _names_one(body: bytes | str | None) -> bool:
    try:
        said = json.loads(body or b"null")
    except ValueError:
        return False
    return isinstance(said, dict) and isinstance(said.get("model"), str)


# --- outcomes -------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs is one that failed."""

    def over(number: int, frame: object) -> None:
        raise TimeoutError(f"not within {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(TEST_SECONDS)
    if left_out := _left_out():
        left_out.unlink(missing_ok=True)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each test that was run, or could not even begin."""
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
