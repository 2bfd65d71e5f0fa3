"""`engine install --cpu` for real: fetched from pip's index, compiled, tried, and chosen by a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.service import serving

BUILD_SECONDS = 3000


def engine(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-P", "-m", "app.commands.cli", "engine", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS)


@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_an_engine_is_built_tried_used_and_removed(tmp_path: Path):
    cache = tmp_path / "cache"
    installed = engine(cache, "install", "--cpu")
    assert (installed.returncode, installed.stdout.partition(" is installed")[0][:4]) == (0, "cpu-"), installed.stderr
    (only,) = json.loads(engine(cache, "list", "--json").stdout)["engines"]
    plain = {"XDG_CACHE_HOME": str(cache), "LLAMA_SMART_PROXY_GPU__ENABLED": "false"}
    with serving(tmp_path / "service", plain=plain) as service:
        assert service.chat().status_code == 200
        (server,) = service.engines()
        assert server.exe() == only["path"]
    again = engine(cache, "install", "--cpu")
    assert (again.returncode, "compiling" in again.stderr) == (0, False)
    assert engine(cache, "remove", only["name"], "--yes").returncode == 0
    assert not Path(only["path"]).exists()
