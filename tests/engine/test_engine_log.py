"""What the real engine logs of prompts and answers, and what is kept of it. Then how it ends with a debugger about."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_embedded_engine import KEY, serving
from workers.catalog.demo_model import write_demo_model
from workers.logs.engine_log import IN_MEMORY_ONLY, EngineLog
from workers.logs.files import LogFiles
from workers.logs.history import LogHistory
from workers.server.log import ServerLog

SECRET = "xyzzyword"
QUOTED = f"{SECRET}quoted"
BODIES: tuple[tuple[str, Any], ...] = (
    ("/v1/completions", {"prompt": f"{SECRET} two", "max_tokens": 5, "stop": [f"{QUOTED}stop"]}),
    ("/v1/completions", {"prompt": "a", "grammar": f'root ::= "{QUOTED}', "max_tokens": 4}),
    ("/v1/completions", {"prompt": "a", "json_schema": {"type": QUOTED}, "max_tokens": 4}),
    ("/v1/completions", {"prompt": "a", "samplers": [QUOTED], "max_tokens": 4}),
    ("/v1/chat/completions", f'{{"messages": [{{"role": "user", "content": "{QUOTED}'),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": QUOTED}]}]}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 4,
            "tools": [{"type": "function", "function": {"name": QUOTED, "description": QUOTED, "parameters": {}}}],
        },
    ),
)


def post(url: str, body: Any) -> bytes:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        answer: bytes = urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30).read()
        return answer
    except urllib.error.HTTPError as error:
        return error.read()


def conversation(url: str) -> str:
    """Asks all kinds of questions; returns the first answer. The log's last lines are lost with the engine."""
    messages = [{"role": "user", "content": f"{SECRET} one"}]
    body = {"messages": messages, "max_tokens": 30, "ignore_eos": True}
    answer = json.loads(post(f"{url}/v1/chat/completions", body))
    for path, body in BODIES:
        post(url + path, body)
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("verbosity", "shows_prompts"), [("4", False), ("5", True)])
def test_prompts_and_answers_never_reach_the_file(tmp_path: Path, verbosity: str, shows_prompts: bool):
    """At the verbosity with which models are started, 4, nor the memory."""
    with serving(write_demo_model(tmp_path / "m"), "-lv", verbosity, "--ctx-size", "512") as engine:
        answer = conversation(engine.url)
        engine.process.terminate()
        output = engine.process.stderr.read()
    assert (SECRET in output.replace(QUOTED, ""), answer[:12] in output) == (shows_prompts, shows_prompts)
    history, log = LogHistory(), ServerLog()
    kept = EngineLog(history, LogFiles(tmp_path / "logs", True), "demo", 1, False, 1)
    kept.add(log.feed(output.encode()), has_requests=True)
    in_memory = "\n".join(line.text for line in history.last("demo").lines)
    in_file = (tmp_path / "logs" / "demo.log").read_text()
    assert SECRET not in in_file and answer[:12] not in in_file
    assert (SECRET in in_memory) == (IN_MEMORY_ONLY in in_memory) == shows_prompts
    assert shows_prompts or in_memory.count("got exception: (status 400") == 2
    assert "/health" not in in_file
