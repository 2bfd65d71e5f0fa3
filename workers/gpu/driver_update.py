"""Tells whether the NVIDIA driver was replaced while this process runs.

NVML stays the one that was mapped, and works with the old kernel module; new processes get the new libraries, whose
CUDA may refuse that module.
"""

from __future__ import annotations

from pathlib import Path

REPLACED = (
    "the NVIDIA driver was replaced while this service runs: reboot, or load the new module and restart the service"
)


def is_driver_replaced(maps: Path = Path("/proc/self/maps")) -> bool:
    """Whether the file of the NVML library that this process has mapped was deleted."""
    try:
        mapped = maps.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any("/libnvidia-ml.so" in line and line.endswith(" (deleted)") for line in mapped)
