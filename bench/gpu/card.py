"""The GPU as reported by NVML: its properties, and the bytes that a process uses on it.

pynvml is imported only when a GPU is searched for, so the rehearsal does not need it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.engine_builds.stopping import CannotContinue

_DRIVER = Path("/proc/driver/nvidia/version")
_BARE_CONTEXT = Path(__file__).with_name("bare_context.py")
_BARE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Shown:
    """Bytes of used GPU memory at one moment."""

    process: int | None  # of the process; None if NVML does not list it (containers can hide pids)
    card: int  # of all processes


class Card:
    """One GPU, the first by default."""

    def __init__(self, nvml: Any, index: int = 0) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)

    @property
    def name(self) -> str:
        return _text(self._nvml.nvmlDeviceGetName(self._handle))

    @property
    def uuid(self) -> str:
        return _text(self._nvml.nvmlDeviceGetUUID(self._handle))

    @property
    def architecture(self) -> str:
        """Compute capability without the dot, as CMake expects it: "90"."""
        return "{}{}".format(*self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle))

    @property
    def free_bytes(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    @property
    def facts(self) -> dict[str, Any]:
        """Properties for the results, without anything that identifies the machine."""
        cuda = self._nvml.nvmlSystemGetCudaDriverVersion_v2()
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        return {
            "gpu": self.name,
            "compute_capability": f"{major}.{minor}",
            "memory_bytes": int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total),
            "driver": _text(self._nvml.nvmlSystemGetDriverVersion()),
            "cuda_of_driver": f"{cuda // 1000}.{cuda % 1000 // 10}",
        }

    def shown(self, pid: int) -> Shown:
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        sizes = [each.usedGpuMemory for each in running if each.pid == pid and each.usedGpuMemory]
        used = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
        return Shown(int(sizes[0]) if sizes else None, used)

    def bare_context_bytes(self) -> int | None:
        """Memory of a process with a bare CUDA context; None if it cannot be created."""
        before = self.shown(0).card
        with subprocess.Popen(
            [sys.executable, str(_BARE_CONTEXT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": self.uuid},
            text=True,
        ) as process:
            assert process.stdin and process.stdout
            is_ready = process.stdout.readline().strip() == "ready"
            shown = self.shown(process.pid)
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_BARE_SECONDS)
            process.kill()
        if not is_ready:
            return None
        return shown.process or max(0, shown.card - before)


def find_card() -> Card | None:
    """The GPU to measure; None if there is none. Raises CannotContinue if it cannot be queried."""
    try:
        import pynvml
    except ImportError:
        if _DRIVER.exists():
            raise CannotContinue("found an NVIDIA driver, but no NVML bindings: pip install nvidia-ml-py") from None
        return None
    try:
        pynvml.nvmlInit()
        return Card(pynvml) if pynvml.nvmlDeviceGetCount() else None
    except pynvml.NVMLError as error:
        if _DRIVER.exists():
            raise CannotContinue(f"NVML failed: {error}") from error
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
