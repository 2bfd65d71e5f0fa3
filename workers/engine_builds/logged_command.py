"""Runs one command of a build: its output goes to the log, its progress to the caller, and a deadline ends it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workers.engine_builds.stopping import CannotContinue, Deadline, OutOfTime

OnProgress = Callable[[int, int], None]  # steps done, steps in all; of make, which counts none, per cent and 100

STOP_SECONDS = 10.0
POLL_SECONDS = 0.5
_STOP_POLL_SECONDS = 0.05
LAST_LINES = 12
_PROGRESS_BYTES = 64 * 1024
_PROGRESS = re.compile(rb"^\[\s*(\d+)(?:/(\d+)|%)\]")
_NO_SPACE = "No space left on device"


def run_logged(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    deadline: Deadline,
    failed: str,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Run `command` to its end. Raises CannotContinue, with `failed` and the log's last lines; OutOfTime.

    Whatever ends it early (the deadline, Ctrl-C) stops its children, too.
    """
    deadline.check()
    start = log.stat().st_size if log.exists() else 0
    with (
        open(log, "ab") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait(process, log, start, deadline, on_progress)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise CannotContinue(_why(log, start, failed))


def _wait(process: subprocess.Popen[bytes], log: Path, start: int, deadline: Deadline, on_progress: OnProgress) -> None:
    reported: tuple[int, int] | None = None
    while deadline.seconds_left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(POLL_SECONDS, deadline.seconds_left))
            return
        if (progress := _progress(log, start)) and progress != reported:
            reported = progress
            on_progress(*progress)
    raise OutOfTime


def _progress(log: Path, start: int) -> tuple[int, int] | None:
    """The last "[12/345]" of ninja, or "[ 12%]" of make, that was written after `start`."""
    with open(log, "rb") as file:
        file.seek(max(start, os.fstat(file.fileno()).st_size - _PROGRESS_BYTES))
        lines = file.read().splitlines()
    found = next((match for line in reversed(lines) if (match := _PROGRESS.match(line))), None)
    return (int(found[1]), int(found[2] or 100)) if found else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt first: ninja then ends its compilers, each in a group of its own, and removes partial files."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    kill_at = time.monotonic() + STOP_SECONDS
    while (left := _session(process.pid)) and time.monotonic() < kill_at:
        time.sleep(_STOP_POLL_SECONDS)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> list[int]:
    """The processes of its session that run."""
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _runs_in(leader, stat)]


def _runs_in(session: int, stat: Path) -> bool:
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # state, parent, group, session, ...
    except OSError:
        return False
    return fields[3] == str(session) and fields[0] not in "ZX"


def _why(log: Path, start: int, failed: str) -> str:
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    if _NO_SPACE in text:
        return f"{failed}: no space left on the disk of {log.parent}; free some, and the same command continues"
    last = "\n".join(text.splitlines()[-LAST_LINES:])
    return f"{failed}; {log} ends with:\n{last}"
