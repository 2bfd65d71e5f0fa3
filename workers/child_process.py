"""Child processes as every llama-server is one: a group of its own, killed by the kernel when we are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess

from app.use_cases.launch import LaunchPlan
from workers.affinity import where_children_may_run
from workers.death_guard import death_guard


def popen(plan: LaunchPlan) -> subprocess.Popen[bytes]:
    """The child: own session, environment of the plan and nothing else, killed by the kernel when this thread ends.

    Its stdin is a pipe only we hold: an engine that watches it ends by itself when we are gone.
    """
    with where_children_may_run():
        return subprocess.Popen(
            [*death_guard(), *plan.argv],
            env=dict(plan.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )


def signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exit_words(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"exit status {code}"
