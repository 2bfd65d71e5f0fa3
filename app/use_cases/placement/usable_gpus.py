"""Usable GPUs: which ones a CUDA_VISIBLE_DEVICES leaves, and whether models may be placed on the GPUs at all.

`visible_gpus` follows the rules that PyTorch documents (torch/cuda/__init__.py, `_parse_visible_devices`): the list
ends at the first entry that names no device, and a list that names one device twice selects none. Two rules are ours.
Numbers are NVML indices, as under CUDA_DEVICE_ORDER=PCI_BUS_ID, because CUDA's default order (fastest first) cannot be
known without CUDA. The number of a GPU in MIG mode selects all of its devices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import CpuFallback


def hides_all_gpus(value: str | None) -> bool:
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


def gpus_are_usable(gpus: GpuSnapshot) -> bool:
    """`gpus` as of now."""
    return gpus.state is GpuState.OK and bool(gpus.gpus) and not gpus.engine_problem


def unplaceable_reason(gpus: GpuSnapshot, fallback: CpuFallback) -> str:
    """Why a model may go neither to a GPU nor to the CPU; "" where it may.

    A machine that never had GPUs, or whose engine cannot use them, is one of the CPU. Where GPUs are missing that
    should be there, nothing is done on the CPU that nobody asked for: it would be many times slower, and nobody would
    know why.
    """
    if gpus_are_usable(gpus) or fallback is CpuFallback.WHEN_FULL:
        return ""
    said = "; ".join(gpus.problems) or gpus.problem or "there is no GPU"
    if fallback is CpuFallback.NEVER:
        return f"{said}; gpu.cpu_fallback is never"
    is_missing = bool(gpus.problems) and not gpus.engine_problem
    return f"{said}; gpu.cpu_fallback: when_full would let it run on the CPU" if is_missing else ""
