"""Blame: whether a server that ended in mid-answer did so because of a request.

Only then are its requests suspects (suspects.py), and one that ran alone is refused. So whatever may have another cause
blames nobody: SIGTERM, or SIGKILL, from an operator; the kernel that is out of memory, unless this server has grown far
beyond its booking; a hang, which is mostly a driver's, a disk's or a SIGSTOP's; an exit with status 0.

What the kernel killed for memory is told from an operator's SIGKILL by the last reading of the server's memory, not by
the kernel's counters of such kills: they do not say which process it was, and one that did not grow is not to blame
in either case.
"""

from __future__ import annotations

from app.entities.server import Server
from app.use_cases.scheduling.memory_watch import has_outgrown_booking
from app.use_cases.scheduling.pool_state import PoolState

# Linux's numbers on x86 and ARM, signal(7).
SIGKILL = 9
CRASH_SIGNALS = frozenset({4, 5, 6, 7, 8, 11, 31})  # SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS
SHELL_SIGNALS = range(129, 128 + 65)  # exit statuses with which a shell reports that its command ended by a signal


def is_due_to_request(state: PoolState, server: Server, exit_code: int | None) -> bool:
    """Whether a request ended the server. `exit_code`: negative for a signal; None: unknown."""
    if ending := state.endings.get(server.id):  # it was killed by order
        return ending.is_due_to_request
    code = 0 if exit_code is None else exit_code
    number = code - 128 if code in SHELL_SIGNALS else -code
    if number == SIGKILL:
        return has_outgrown_booking(state, server)
    return number < 0 or number in CRASH_SIGNALS
