"""The descendants of a process. Standard library only: bench/gpu runs where there is no psutil."""

from __future__ import annotations

import os


def descendants(pid: int) -> list[int]:
    """Its children and theirs; none if it has exited. What was detached from its parent is not found."""
    found = _children(pid)
    for child in found:  # grows while it is walked
        found += _children(child)
    return found


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [child for thread in threads for child in _children_of(pid, thread)]


def _children_of(pid: int, thread: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []
