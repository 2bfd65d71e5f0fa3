"""A real engine for the CPU: `engine install`, stopped and continued, and a service that chooses and runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.service import serving

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler"),
]
INSTALL = [sys.executable, "-m", "app.commands.cli", "engine", "install", "--cpu", "--json"]
SDIST = os.environ.get("ENGINE_SDIST", "")  # a source package; pip's index is asked without one


def steps_done(log: Path) -> int:
    return len(re.findall(r"^\[\s*\d+", log.read_text(), re.MULTILINE)) if log.exists() else 0


def wait_until_it_compiles(process: subprocess.Popen[str], engines: Path) -> Path:
    """The build's log, once some of it is compiled."""
    deadline = time.monotonic() + 1200
    while process.poll() is None and time.monotonic() < deadline:
        for log in engines.glob(".build/cpu-*/build.log"):
            if steps_done(log) >= 20:
                return log
        time.sleep(0.5)
    raise AssertionError(f"it does not compile: {process.communicate()[1]}")


def test_an_engine_is_built_stopped_continued_chosen_and_serves(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if name != "CACHE_DIRECTORY"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}  # as the service below has them
    engines = tmp_path / "cache" / "llama-smart-proxy" / "engines"
    command = [*INSTALL, *(["--sdist", SDIST] if SDIST else [])]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log = wait_until_it_compiles(process, engines)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (
        128 + signal.SIGTERM,
        "stopped: the same command continues where it stopped",
    )
    before = log.stat().st_size

    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    engine = json.loads(done.stdout)
    built = Path(engine["path"])
    assert (engine["backend"], engine["size_bytes"]) == ("cpu", built.stat().st_size)
    continued = log_of(built)[before:]
    assert "-- The CXX compiler identification" not in continued, "configured once"
    first, rest = (re.search(r"^\[\d+/(\d+)]", text, re.MULTILINE) for text in (log_of(built), continued))
    assert not first or (rest and int(rest[1]) < int(first[1])), "ninja compiles nothing twice"

    path = "/usr/bin:/bin"  # where nobody's own llama-server is
    with serving(tmp_path, plain={"PATH": path}, ENGINE__BINARY="auto", GPU__ENABLED="false") as service:
        assert service.chat(max_tokens=8).status_code == 200
        (server,) = service.servers()
        assert Path(f"/proc/{server['pid']}/exe").resolve() == built


def log_of(built: Path) -> str:
    return (built.parent.parent / "build.log").read_text()
