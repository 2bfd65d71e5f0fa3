"""What coding agents and editors send first, replayed, and `launch`, which starts them.

`startups/*.json` were recorded from the named client, unless they say otherwise, and shortened: long texts are cut, two
tools of each type are left, and limits on the answer are lowered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.helpers.service import Service, serving

STARTUPS = sorted((Path(__file__).parent / "startups").glob("*.json"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    # Agents set no limit on the answer, and the demo model ends none by itself.
    with serving(tmp_path_factory.mktemp("startups"), ENGINE__ARGS='["--predict", "8"]') as running:
        yield running


@pytest.mark.parametrize("file", STARTUPS, ids=lambda file: file.stem)
def test_what_a_client_sends_first_is_answered_in_the_form_it_reads(service: Service, file: Path):
    for request in json.loads(file.read_text())["requests"]:
        answer = requests.request(
            request["method"], service.url + request["path"], headers=request["headers"], json=request.get("body")
        )
        expected = request["answer"]
        assert (answer.status_code, request["path"]) == (expected["status"], request["path"]), answer.text
        assert_form(answer.text, expected["form"])


def assert_form(text: str, form: str) -> None:
    """`form` is `empty`, the kind of a stream, or a key of a JSON object."""
    match form:
        case "empty":
            assert text == ""
        case "chat stream":
            assert text.endswith("data: [DONE]\n\n")
            assert '"finish_reason":"' in text
        case "anthropic stream":
            assert [event for event in events(text) if event.startswith("message_")] == [
                "message_start",
                "message_delta",
                "message_stop",
            ]
        case "responses stream":
            assert (events(text)[0], events(text)[-1]) == ("response.created", "response.completed")
        case "ollama stream":
            assert json.loads(text.splitlines()[-1])["done"] is True
        case _:
            assert form in json.loads(text)


def events(stream: str) -> list[str]:
    return [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]


def test_launch_starts_the_client_with_the_service_as_its_model(service: Service, tmp_path: Path):
    stand_in = tmp_path / "claude"
    stand_in.write_text('#!/bin/sh\necho "arguments: $*"\nenv\n')
    stand_in.chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "app.commands.cli",
        "launch",
        "claude",
        "--url",
        service.url,
        "--",
        "--continue",
        "a b",
    ]
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LLAMA_SMART_PROXY_API_KEY": "sk-1",
        "ANTHROPIC_API_KEY": "sk-other",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    arguments, *variables = done.stdout.splitlines()
    assert arguments == "arguments: --continue a b"
    assert {
        f"ANTHROPIC_BASE_URL={service.url}",
        "ANTHROPIC_AUTH_TOKEN=sk-1",
        "ANTHROPIC_API_KEY=",
        "ANTHROPIC_MODEL=demo",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS=32768",
    } <= set(variables)
    assert f"Claude Code with demo (the only one) at {service.url}" in done.stderr
    assert "sk-1" not in done.stderr
    assert "Set models.demo.ctx_size to 65536 or more" in done.stderr


def test_a_client_that_is_not_installed_is_named_with_its_installation(service: Service, tmp_path: Path):
    command = [sys.executable, "-m", "app.commands.cli", "launch", "codex", "--model", "demo", "--url", service.url]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Codex is not installed: npm install -g @openai/codex"
