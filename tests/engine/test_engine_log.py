"""What the real engine logs of prompts and answers, and what is kept of it. Then how it ends with a debugger about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from tests.engine.test_embedded_engine import KEY, serving
from workers.catalog.demo_model import write_demo_model
from workers.logs.engine_log import IN_MEMORY_ONLY, EngineLog
from workers.logs.files import LogFiles
from workers.logs.history import LogHistory
from workers.server.log import ServerLog, error_lines

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


ABORT = """
import ctypes, sys
ctypes.CDLL(sys.argv[1]).ggml_abort(b"/src/ggml/src/ggml.c", 42, b"GGML_ASSERT(%s) failed", b"a < b")
"""


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nonexistent"], ids=["gdb, if there is one", "no gdb"])
def test_a_real_abort_says_its_assertion_with_and_without_gdb(path: str):
    """ggml calls gdb for a backtrace, and prints the symbols where there is none."""
    (library,) = Path(xllamacpp.__file__).parent.glob("*.so")
    env = {**os.environ, "PATH": path}
    env.pop("GGML_NO_BACKTRACE", None)
    ended = subprocess.run([sys.executable, "-c", ABORT, library], env=env, capture_output=True, text=True, timeout=60)
    lines = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == -signal.SIGABRT and len(lines) > 5
    assert error_lines(lines, may_quote=True) == "/src/ggml/src/ggml.c:42: GGML_ASSERT(a < b) failed"
