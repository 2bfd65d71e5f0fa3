"""Services started by pytest end with it, even if it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.service import has_exited, wait_for

ROOT = Path(__file__).resolve().parents[2]
TEST = """
import json, os, pathlib, time
import pytest
from tests.helpers.service import serving

@pytest.mark.integration
def test_it(tmp_path):
    with serving(tmp_path) as service:
        assert service.chat().status_code == 200
        pids = pathlib.Path(__file__).with_name("pids")
        pids.with_suffix(".new").write_text(json.dumps([os.getpid(), *(p.pid for p in service.family())]))
        pids.with_suffix(".new").rename(pids)
        time.sleep(60)
"""


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_killed_pytest_leaves_no_service_behind(tmp_path: Path, processes: str):
    """With pytest-xdist a worker owns the service, and dies with its pytest."""
    (tmp_path / "test_it.py").write_text(TEST)
    pids = tmp_path / "pids"
    options = ("-p", "tests.conftest", "-c", str(ROOT / "setup.cfg"), "--basetemp", str(tmp_path / "temp"))
    command = [sys.executable, "-m", "pytest", *options, "-n", processes, str(tmp_path / "test_it.py")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as killed:
        try:
            wait_for(lambda: pids.exists() or killed.poll() is not None, 60)
            family = [psutil.Process(pid) for pid in json.loads(pids.read_text())]
        finally:
            killed.kill()
        assert len(family) >= 4, "pytest, gunicorn's master, its worker, an engine"
    wait_for(
        lambda: all(map(has_exited, family)), 20, lambda: [process for process in family if not has_exited(process)]
    )
