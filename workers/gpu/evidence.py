"""Whether there should be GPUs on this machine, when NVML shows none: what the bus says, and what was seen before."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.entities.gpu import Gpu

log = logging.getLogger(__name__)

NVIDIA = "0x10de"  # PCI's number for the vendor
DISPLAY = "0x03"  # and its class for graphics cards, those without an outlet included
ROOT = Path("/")


class SeenGpus:
    """The GPUs that NVML has shown since the state directory was made; a small file there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = _read(path)  # by UUID; written by the thread `gpus` alone

    def add(self, gpus: Iterable[Gpu]) -> None:
        """Remember them. A file that cannot be written costs a warning: the next life may take lost GPUs for none."""
        new = {gpu.uuid: gpu.name for gpu in gpus if not gpu.is_mig and gpu.uuid not in self._names}
        if not new:
            return
        self._names |= new
        beside = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(self._names, indent=2) + "\n")
            os.replace(beside, self.path)
        except OSError as error:
            log.warning("gpus cannot be remembered: %s", error)

    def names(self) -> str:
        return ", ".join(sorted(set(self._names.values())))


def why_expected(seen: SeenGpus, root: Path = ROOT) -> str:
    """Why there should be a GPU; "" when nothing speaks for it. Evidence of now comes before that of the past."""
    if bus := next(_on_the_bus(root), None):
        return f"there is one on the PCI bus ({bus}); to do without: gpu.enabled: false"
    if (root / "proc/driver/nvidia").exists():
        return "the NVIDIA kernel module is loaded (/proc/driver/nvidia); to do without: gpu.enabled: false"
    if names := seen.names():
        return f"here before: {names} (if taken out for good, delete {seen.path} and restart)"
    return ""


def _on_the_bus(root: Path) -> Iterator[str]:
    try:
        devices = sorted((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return
    for device in devices:
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == NVIDIA and kind.startswith(DISPLAY):
            yield device.name


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(uuid): str(name) for uuid, name in found.items()} if isinstance(found, dict) else {}
