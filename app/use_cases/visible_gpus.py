"""Which GPUs a CUDA_VISIBLE_DEVICES leaves, by CUDA's rules.

The rules are those that PyTorch wrote down (torch/cuda/__init__.py, `_parse_visible_devices`): the list ends at the
first entry that means no device, and one that names a device twice means none at all. Two things are ours. Numbers are
NVML's, as under CUDA_DEVICE_ORDER=PCI_BUS_ID: CUDA's own order, the fastest first, cannot be known without CUDA. The
number of a GPU in MIG mode means all of its devices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.entities.gpu import Gpu


def names_nothing(value: str | None) -> bool:
    """Whether it hides every GPU that there could be: "", -1, "none"."""
    return value is not None and not re.match(r"\s*\+?\d|\s*(GPU|MIG)-", value)


def visible_gpus(value: str | None, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Those that remain, in the order of the list. None: the variable is not set, all of them."""
    if value is None:
        return tuple(gpus)
    by_uuid = next((prefix for prefix in ("GPU-", "MIG-") if value.lstrip().startswith(prefix)), None)
    named: list[Gpu] = []
    for entry in value.split(","):
        meant = _by_uuid(entry.strip(), by_uuid, gpus) if by_uuid else _by_index(entry, gpus)
        if not meant:
            break
        if any(each in named for each in meant):
            return ()
        named += meant
    return tuple(named)


def _by_uuid(entry: str, prefix: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The one whose UUID begins so. A beginning of two means neither."""
    meant = [gpu for gpu in gpus if gpu.uuid.startswith(entry)] if entry.startswith(prefix) else []
    return meant if len(meant) == 1 else []


def _by_index(entry: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Read like C's strtoul: "1gpu" is 1."""
    number = re.match(r"\s*\+?(\d+)", entry)
    return [gpu for gpu in gpus if number and gpu.index == int(number[1])]
