"""The limit on open files: raised for the service, handed back to its children."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from app.use_cases.launch.command_line import LaunchPlan
from workers.server.child_process import popen
from workers.server.open_files import raise_soft_limit
raise_soft_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
class Plan:
    argv, env = ("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn"), {"PATH": "/usr/bin:/bin"}
print(popen(Plan).communicate()[0].split() == [b"256", str(hard).encode()])
"""


@pytest.mark.integration
def test_the_soft_limit_is_raised_here_and_not_for_children():
    """1,100 idle connections under a soft limit of 1024 left one health check of four unanswered."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
