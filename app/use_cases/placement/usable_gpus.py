"""Usable GPUs: which ones CUDA_VISIBLE_DEVICES selects, and why a model may not be placed at all.

`visible_gpus` follows the rules that PyTorch documents (torch/cuda/__init__.py, `_parse_visible_devices`): the list
ends at the first entry that names no device, and a list that names one device twice selects none. Two rules are our
own: numbers are NVML indices, as under CUDA_DEVICE_ORDER=PCI_BUS_ID, because CUDA's default order (fastest first)
cannot be known without CUDA; and the number of a GPU in MIG mode selects all of its MIG devices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.placement import CpuFallback
from app.use_cases.placement.cards import allowed_cards
from app.use_cases.placement.request import PlacementRequest


def hides_all_gpus(value: str | None) -> bool:
    """Whether this CUDA_VISIBLE_DEVICES hides every possible GPU: "", -1, "none"."""
    return value is not None and not re.match(r"\s*\+?\d|\s*(GPU|MIG)-", value)


def visible_gpus(value: str | None, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES=`value` selects, in its order; None (not set) selects all."""
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
    """The GPU whose UUID has this prefix; none if the prefix is ambiguous."""
    meant = [gpu for gpu in gpus if gpu.uuid.startswith(entry)] if entry.startswith(prefix) else []
    return meant if len(meant) == 1 else []


def _by_index(entry: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Parsed like C's strtoul: "1gpu" is 1."""
    number = re.match(r"\s*\+?(\d+)", entry)
    return [gpu for gpu in gpus if number and gpu.index == int(number[1])]


def unplaceable_reason(gpus: GpuSnapshot, fallback: CpuFallback) -> str:
    """Why a model may be placed neither on a GPU nor on the CPU; "" if it may. `gpus` is the snapshot as of now.

    A machine that never had GPUs, or whose engine cannot use them, serves from the CPU. If expected GPUs are missing,
    it does not fall back to the CPU unless configured: that would be many times slower without a visible reason.
    """
    if gpus.has_usable_gpu or fallback is CpuFallback.WHEN_FULL:
        return ""
    problem = _problem(gpus) or "there is no GPU"
    if fallback is CpuFallback.NEVER:
        return f"{problem}; gpu.cpu_fallback is never"
    is_missing = bool(gpus.problems) and not gpus.engine_problem
    return f"{problem}; to run it on the CPU, set gpu.cpu_fallback: when_full" if is_missing else ""


def why_no_gpu(gpus: GpuSnapshot, request: PlacementRequest) -> str:
    """Why none of the GPUs, as of now, can be used for the request; "" if it needs none, or some can."""
    gpus = gpus.seen_by(request.engine)
    usable = allowed_cards(gpus.gpus, request.constraints) if gpus.has_usable_gpu else ()
    if usable or not request.options.n_gpu_layers:
        return ""
    return _problem(gpus) or "no GPU that it may use was present"


def _problem(gpus: GpuSnapshot) -> str:
    return "; ".join(gpus.problems) or gpus.problem
