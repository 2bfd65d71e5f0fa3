"""The loopback ports that a process listens on, from /proc: proof that a port belongs to our child and to no other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

LISTEN = "0A"
LOOPBACK = "0100007F"  # 127.0.0.1, little-endian


def listening_ports(pid: int) -> set[int]:
    """Ports on 127.0.0.1 whose listening socket belongs to `pid` or a descendant (that of a wrapper script)."""
    inodes = {inode for member in _process_tree(pid) for inode in _socket_inodes(member)}
    return {port for port, inode in _listening_sockets() if inode in inodes}


def _process_tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return [pid]


def _socket_inodes(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # it has exited, or access is denied
        return
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _listening_sockets() -> Iterator[tuple[int, str]]:
    """(port, inode) of every socket that listens on 127.0.0.1."""
    with open("/proc/net/tcp") as table:
        next(table)
        for row in table:
            fields = row.split()
            address, port = fields[1].split(":")
            if fields[3] == LISTEN and address == LOOPBACK:
                yield int(port, 16), fields[9]
