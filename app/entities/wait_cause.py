"""WaitCause: what a load that has to wait is waiting for."""

from __future__ import annotations

import enum


class WaitCause(enum.StrEnum):
    BUSY = "busy"  # servers with requests hold the memory
    LOADING = "loading"  # servers that are loading hold it
    RELEASING = "releasing"  # servers that have ended, or are about to, have not released it
    DRAINING = "draining"  # draining servers hold it
    PROTECTED = "protected"  # servers in frequent use hold it, which are not evicted yet
    RESERVED = "reserved"  # it is free, for an earlier load
    OTHERS = "others"  # other processes hold it, or a GPU is missing
