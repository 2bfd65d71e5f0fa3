"""The one CPU the service may keep itself to, and how its children do not.

Threads and children inherit what their creator may run on. The arbiter stays free: its mask is what we were given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def why_not(cpu: int) -> str:
    """What forbids this process that CPU; empty if nothing does."""
    ours = os.sched_getaffinity(0)
    named = ", ".join(map(str, sorted(ours)))
    return "" if cpu in ours else f"{cpu} is none of the CPUs this service may use: {named}"


def keep_to(cpu: int) -> None:
    """Every thread there is; those to come inherit it."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), {cpu})


@contextlib.contextmanager
def where_children_may_run() -> Iterator[None]:
    """For the thread that starts a child, while it does."""
    own = os.sched_getaffinity(0)
    try:
        given = os.sched_getaffinity(os.getppid())
    except OSError:  # the arbiter has just been killed, and this process with it
        given = own
    if given == own:
        yield
        return
    os.sched_setaffinity(0, given)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
