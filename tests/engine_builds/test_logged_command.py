"""Commands of a build, and what they have started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import runs
from tests.helpers.service import wait_for
from workers.engine_builds import logged_command
from workers.engine_builds.logged_command import run_logged
from workers.engine_builds.stopping import Deadline, OutOfTime

pytestmark = pytest.mark.integration

# A tool that ends at once, and its compiler, in a group of its own, that heeds no interruption.
TOOL = """\
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
if not os.fork():
    os.setpgid(0, 0)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(99)
signal.signal(signal.SIGINT, signal.SIG_DFL)
time.sleep(99)
"""


def test_a_compiler_that_heeds_no_interruption_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logged_command, "STOP_SECONDS", 0.2)
    pid = tmp_path / "pid"
    with pytest.raises(OutOfTime):
        run_logged([sys.executable, "-c", TOOL, str(pid)], os.environ, tmp_path / "log", Deadline(2.0), "failed")
    wait_for(lambda: not runs(int(pid.read_text())), 10.0)
