"""Fake NVIDIA hardware: the real nvidia-ml-py on a fake libnvidia-ml.so.1, compiled from C.

The library reads the hardware from a text file on every call: a test changes the hardware by rewriting the file.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "libnvidia-ml.so.1"
COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc) for the fake NVML")


@dataclass(frozen=True)
class Card:
    """One GPU. `flags` are missing features and faults: no_memory, memory_fails (an error), no_utilization,
    no_temperature, no_power, no_pci, no_capability, no_processes, no_mig, no_display, old_temperature (only the old
    call knows it), lost, forbidden, hidden_pids, no_process_bytes; display (it drives one), ats (its addressing mode).
    With `parts` it is in MIG mode. Dead processes use none."""

    uuid: str = "GPU-aaaa"
    name: str = "NVIDIA GeForce RTX 4090"
    total_mib: int = 24564
    used_mib: int = 300
    utilization: int = 7
    celsius: int = 41
    milliwatts: int = 22500
    capability: str = "8.9"
    bus: str = "00000000:01:00.0"
    flags: tuple[str, ...] = ()
    processes: dict[int, int] = field(default_factory=dict)  # pid -> MiB
    drawing: dict[int, int] = field(default_factory=dict)  # the same, of those in the list of graphics processes
    parts: tuple[Card, ...] = ()

    def lines(self, kind: str = "gpu") -> list[str]:
        flags = ",".join((*self.flags, "mig_mode") if self.parts else self.flags) or "-"
        numbers = f"{self.total_mib} {self.used_mib} {self.utilization} {self.celsius} {self.milliwatts}"
        return [
            f"{kind} {self.uuid} {self.bus} {numbers} {self.capability} {flags} {self.name}",
            *(f"process {pid} {mib}" for pid, mib in self.processes.items()),
            *(f"drawing {pid} {mib}" for pid, mib in self.drawing.items()),
            *(line for part in self.parts for line in part.lines("mig")),
        ]


class StandIn:
    """The fake hardware of one test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "nvml.txt"

    def show(self, *cards: Card, faults: tuple[str, ...] = ()) -> None:
        """Set the hardware. Faults: `error CALL CODE` and `delay CALL MILLISECONDS`, for an NVML function or `all`, and
        `stale_until_init N`: every card is lost until the process initializes NVML for the Nth time."""
        text = "\n".join(["driver 580.10 13000", *faults, *(line for card in cards for line in card.lines())]) + "\n"
        temporary = self.path.with_suffix(".new")
        temporary.write_text(text)
        os.replace(temporary, self.path)

    def unload(self) -> None:
        """Simulate that the driver is not loaded."""
        self.path.unlink()

    def is_open(self, pid: int) -> bool:
        """Whether the process keeps the hardware awake: NVML is initialized in it."""
        return f"{self.path}.device" in map(_target, Path(f"/proc/{pid}/fd").iterdir())

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process sees this hardware."""
        return {"LD_LIBRARY_PATH": str(library().parent), "STAND_IN_NVML": str(self.path)}


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):  # the file was closed meanwhile
        return os.readlink(link)
    return ""


@functools.cache
def library() -> Path:
    """Compile the library once per process; it is deleted at exit."""
    assert COMPILER is not None
    folder = Path(tempfile.mkdtemp(prefix="stand-in-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / LIBRARY
    subprocess.run(
        [COMPILER, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", made, SOURCE],
        check=True,
        timeout=60,
    )
    return made


def an_a100(uuid: str = "GPU-cccc", bus: str = "00000000:41:00.0", parts: tuple[Card, ...] = ()) -> Card:
    return Card(uuid, "NVIDIA A100-SXM4-80GB", 81920, 450, 0, 33, 61000, "8.0", bus, parts=parts)
