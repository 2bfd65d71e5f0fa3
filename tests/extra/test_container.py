"""The container file, by hadolint and, where a container engine runs, by building and starting it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.service import serving

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = ROOT / "deploy/container/Containerfile"
HADOLINT = ROOT / "build/hadolint/bin/hadolint"


def run(*command: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def container_engine() -> str:
    """docker or podman, if it works."""
    found = (shutil.which(name) for name in ("docker", "podman"))
    return next((path for path in found if path and run(path, "info", timeout=20).returncode == 0), "")


def health_check() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", CONTAINERFILE.read_text())
    found: list[str] = json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])", text)[1])
    return found


def test_hadolint_finds_nothing():
    done = run(str(HADOLINT), str(CONTAINERFILE))
    assert (done.returncode, done.stdout) == (0, "")


def test_its_health_check_passes_on_a_running_service(tmp_path: Path):
    with serving(tmp_path) as service:
        port = service.url.rpartition(":")[2]
        command = [sys.executable, *health_check()[1:]]
        command[2] = command[2].replace("'8080'", f"'{port}'")
        assert run(*command).returncode == 0
        command[2] = command[2].replace(port, "1")
        assert run(*command).returncode == 1


@pytest.mark.timeout(1200)
def test_it_builds_and_is_healthy():
    engine = container_engine()
    if not engine:
        pytest.skip("no container engine runs here")
    built = run(engine, "build", "-f", str(CONTAINERFILE), "-t", "llama-smart-proxy-test", str(ROOT), timeout=900)
    assert built.returncode == 0, built.stderr[-2000:]
    options = ["--rm", "--detach", "--env", "LLAMA_SMART_PROXY_SERVER__ALLOW_OPEN=true"]
    container = run(engine, "run", *options, "llama-smart-proxy-test").stdout.strip()
    try:
        ends = time.monotonic() + 60
        while run(engine, "exec", container, *health_check()).returncode and time.monotonic() < ends:
            time.sleep(1)
        assert run(engine, "exec", container, *health_check()).returncode == 0
    finally:
        stopped = run(engine, "stop", "--time", "60", container)
    assert stopped.returncode == 0
