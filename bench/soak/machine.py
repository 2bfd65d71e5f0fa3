"""What the service under soak sees of its machine: GPUs, their memory, the wall clock and the state's disk."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.stand_in_nvml import COMPILER, Card, StandIn

MIB = 1024**2
CARDS = tuple(Card(f"GPU-{name}", total_mib=1300, used_mib=0, bus=f"00000000:0{n}:00.0") for n, name in enumerate("ab"))
STATE_DISK = "2m"


class Gpus:
    """The GPUs. Their memory follows the bookings of the service's engines; faults change the rest."""

    def __init__(self, folder: Path) -> None:
        self._stand_in = StandIn(folder)
        self._lock = threading.Lock()
        self._cards, self._faults, self._is_loaded = CARDS, (), True
        self._held: dict[int, dict[str, int]] = {}  # pid -> bytes by UUID
        self._show()

    @property
    def environment(self) -> dict[str, str]:
        return self._stand_in.environment

    def hold(self, servers: list[dict[str, Any]]) -> None:
        """Enter the memory of the engines in /health."""
        held = {each["process"]: each["booked_bytes"] for each in servers if each["process"]}
        with self._lock:
            if held != self._held:
                self._held = held
                self._show()

    @contextlib.contextmanager
    def changed(self, *cards: Card, faults: tuple[str, ...] = (), is_loaded: bool = True) -> Iterator[None]:
        """Other cards, failing calls, or no driver."""
        self._set(cards or CARDS, faults, is_loaded)
        try:
            yield
        finally:
            self._set(CARDS, (), True)

    def _set(self, cards: tuple[Card, ...], faults: tuple[str, ...], is_loaded: bool) -> None:
        with self._lock:
            self._cards, self._faults, self._is_loaded = cards, faults, is_loaded
            self._show()

    def _show(self) -> None:
        if self._is_loaded:
            self._stand_in.show(*map(self._filled, self._cards), faults=self._faults)
        else:
            self._stand_in.path.unlink(missing_ok=True)

    def _filled(self, card: Card) -> Card:
        ours = {pid: held[card.uuid] // MIB for pid, held in self._held.items() if card.uuid in held}
        return replace(card, processes={**card.processes, **ours})


class WallClock:
    """The service's wall clock, which can jump. Without a C compiler it does not."""

    def __init__(self, folder: Path) -> None:
        self._file, self._library = folder / "wall-clock", folder / "wall_clock.so"
        self._file.write_bytes(struct.pack("q", 0))
        self.environment: dict[str, str] = {}
        if COMPILER:
            source = Path(__file__).with_name("wall_clock.c")
            command = [COMPILER, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
            subprocess.run(command, check=True, timeout=60)
            self.environment = {"LD_PRELOAD": str(self._library), "SOAK_WALL_CLOCK": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Set how far the clock is ahead of the right time; negative: behind."""
        with open(self._file, "r+b") as file:
            file.write(struct.pack("q", seconds))


class StateDisk:
    """The folder of the service's state. It is a file system of its own where this process may mount one; elsewhere a
    full disk is imitated by a limit on the size of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={STATE_DISK}", "tmpfs", str(folder)]
        self.is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    @contextlib.contextmanager
    def full(self, worker: psutil.Process) -> Iterator[None]:
        if self.is_mounted:
            with self._filled():
                yield
            return
        limits = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            worker.rlimit(psutil.RLIMIT_FSIZE, limits)

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        filler = self.folder / "filler"
        try:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


@contextlib.contextmanager
def few_descriptors(process: psutil.Process, more: int) -> Iterator[None]:
    """The process may open only `more` descriptors than it has open now."""
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (min(process.num_fds() + more, limits[0]), limits[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, limits)


def allow_many_descriptors() -> None:
    """For our own clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
