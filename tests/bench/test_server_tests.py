"""bench.server_tests: the translation of llama-server's options for the proxy, and the comparison of outcomes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.settings.schema import Settings
from bench.server_tests import direct, through
from bench.server_tests.compare import compared
from bench.server_tests.options import ROUTER
from bench.server_tests.plugin import named
from tests.helpers.service import wait_for
from workers.catalog.demo_model import write_demo_model
from workers.engine import embedded_engine
from workers.server.child_process import free_port

pytestmark = pytest.mark.integration

STARTED = (
    *("--port", "8080", "--temp", "0.8", "--host", "127.0.0.1", "--offline", "--hf-repo", "ggml-org/x", "--no-slots"),
    *("--alias", "b,a", "--ctx-size", "512", "--parallel", "2", "--lora", "x.gguf", "--n-predict", "-1"),
)


def test_options_become_settings_arguments_and_options_of_the_engine_script(tmp_path: Path):
    start = through.parsed(direct.with_local_models(STARTED, tmp_path))
    assert start.settings == {"ctx_size": 512, "parallel": 2}
    assert start.arguments == ["--temp", "0.8", "--n-predict", "-1"]
    assert start.by_the_script == ["--lora", "x.gguf"]
    assert (start.ours["--model"], start.ours["--alias"]) == (str(tmp_path / "tiny.gguf"), "b,a")


def test_its_configuration_is_valid(tmp_path: Path):
    start = through.parsed([*direct.with_local_models(STARTED, tmp_path), "--api-key", "secret"])
    settings = Settings(**through.configuration(start, tmp_path / "llama-server"))
    assert (settings.models["a"].aliases, settings.models["a"].kv_unified) == (["b"], False)
    assert [key.admin for key in settings.keys] == [True]


def test_unsupported_options_say_why():
    with pytest.raises(through.Unsupported, match=ROUTER):
        through.parsed(["--host", "127.0.0.1"])
    with pytest.raises(through.Unsupported, match="--tools"):
        through.parsed(["--model", "m.gguf", "--tools", "all", "--host", "127.0.0.1"])


def test_an_unlisted_option_is_an_error():
    with pytest.raises(AssertionError, match="--rpc"):
        through.parsed(["--model", "m.gguf", "--rpc", "host", "--host", "127.0.0.1"])


def test_the_model_is_named_by_the_address_where_nothing_names_it():
    url = "http://127.0.0.1:1/completion"
    assert named("POST", url, b'{"prompt": ""}', "m/1") == f"{url}?model=m%2F1"
    assert named("POST", url, b'{"model": "x"}', "m") == url
    assert named("POST", f"{url}?model=x", b"not JSON", "m") == f"{url}?model=x"
    assert named("GET", "http://127.0.0.1:1/health", None, "m") == "http://127.0.0.1:1/health"
    assert named("GET", "http://127.0.0.1:1/slots?a=b", None, "m") == "http://127.0.0.1:1/slots?a=b&model=m"


def test_only_what_passes_direct_has_to_pass_through():
    direct_ = {name: {"outcome": "passed", "why": ""} for name in ("both", "lost", "left out", "not run")}
    direct_["never"] = {"outcome": "failed", "why": "no such story"}
    through_ = {
        "both": {"outcome": "passed", "why": ""},
        "lost": {"outcome": "failed", "why": "x.py:1: 400"},
        "left out": {"outcome": "failed", "why": "died", "left_out": "--tools: shut"},
        "never": {"outcome": "failed", "why": "no such story"},
    }
    made = compared(direct_, through_)
    assert (made["pass_direct"], made["pass_both"], made["not_compared"]) == (4, 1, {"failed": 1})
    assert made["fail_through"] == {"lost": "x.py:1: 400", "not run": ""}
    assert made["left_out"] == {"--tools: shut": ["left out"]}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of the proxy, in llama-server's place."""
    write_demo_model(tmp_path).rename(tmp_path / "tiny.gguf")
    engine = tmp_path / "embedded"
    engine.write_text(f'#!/bin/sh\nexec {sys.executable} {embedded_engine.__file__} "$@"\n')
    engine.chmod(0o755)
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--hf-repo", "x/y", "--ctx-size", "512", "--no-jinja")
    command = [sys.executable, "-m", "bench.server_tests.through", engine, tmp_path, tmp_path, *options]
    with subprocess.Popen(command) as process:
        yield port
        process.terminate()
        assert process.wait(20) == 0


def test_the_proxy_serves_in_its_place_and_ends_at_term(port: int):
    def answer() -> requests.Response | None:
        try:
            return requests.post(f"http://127.0.0.1:{port}/completion?model=tiny", json={"prompt": "A"}, timeout=20)
        except requests.ConnectionError:
            return None

    assert wait_for(answer, 20).json()["content"]
