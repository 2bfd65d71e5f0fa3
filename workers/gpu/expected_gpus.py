"""Evidence that this machine has NVIDIA GPUs although NVML lists none: PCI bus, driver, earlier readings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from app.entities.gpu import Gpu

log = logging.getLogger(__name__)

NVIDIA_VENDOR_ID = "0x10de"
DISPLAY_CLASS = "0x03"  # PCI class of graphics cards, including those without a display output
ROOT = Path("/")


class GpuHistory:
    """The GPUs that NVML has listed since the state directory was created, in a small JSON file there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = _read(path)  # by UUID; written by the thread `gpus` alone

    def add(self, gpus: Iterable[Gpu]) -> None:
        """Record new GPUs. If the file cannot be written, a warning is logged: the next run may not notice that a GPU
        is missing."""
        new = {gpu.uuid: gpu.name for gpu in gpus if not gpu.is_mig and gpu.uuid not in self._names}
        if not new:
            return
        self._names |= new
        partial = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._names, indent=2) + "\n")
            os.replace(partial, self.path)
        except OSError as error:
            log.warning("cannot record the GPUs that were seen: %s", error)

    @property
    def seen(self) -> Mapping[str, str]:
        """Names by UUID."""
        return self._names

    def names(self) -> str:
        return ", ".join(sorted(set(self._names.values())))


def evidence_of_gpus(history: GpuHistory, root: Path = ROOT) -> str:
    """Why there should be a GPU; "" without evidence. Present evidence is preferred to past readings."""
    if bus := next(_pci_addresses(root), None):
        return f"there is one on the PCI bus ({bus}); to run without it: gpu.enabled: false"
    if (root / "proc/driver/nvidia").exists():
        return "the NVIDIA kernel module is loaded (/proc/driver/nvidia); to run without GPUs: gpu.enabled: false"
    if (root / "sys/module/nvgpu").exists():  # of a Jetson's GPU, which is on no bus
        return "the kernel module of a Jetson's GPU is loaded (nvgpu); to run without it: gpu.enabled: false"
    if names := history.names():
        return f"seen before: {names} (if removed for good, delete {history.path} and restart)"
    return ""


def _pci_addresses(root: Path) -> Iterator[str]:
    """Of NVIDIA's graphics cards."""
    try:
        devices = sorted((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return
    for device in devices:
        try:
            vendor, pci_class = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == NVIDIA_VENDOR_ID and pci_class.startswith(DISPLAY_CLASS):
            yield device.name


def _read(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(uuid): str(name) for uuid, name in names.items()} if isinstance(names, dict) else {}
