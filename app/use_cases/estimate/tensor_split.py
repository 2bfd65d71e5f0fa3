"""Tensor split: which layers are on which GPU, by llama.cpp's arithmetic (b11434, llama_model_base::load_tensors).

Computed in float32 like there: a share that falls on the border between two layers goes where float32 rounds it.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from app.entities.launch import ModelOptions
from app.use_cases.model_shape.hparams import Hparams

_FLOAT = struct.Struct("<f")


def used_gpus(options: ModelOptions) -> tuple[int, ...]:
    """The numbers of the GPUs that are used, in the order of an estimate's devices."""
    if not _is_alone(options):
        return tuple(range(options.devices))
    draft = options.draft_device
    is_elsewhere = draft is not None and draft != options.main_gpu and draft < options.devices
    return (options.main_gpu, draft) if draft is not None and is_elsewhere else (options.main_gpu,)


def _is_alone(options: ModelOptions) -> bool:
    return options.devices > 0 and (options.split_mode == "none" or options.devices == 1)


def device_layers(hp: Hparams, options: ModelOptions) -> list[range]:
    """The layers of each device; with split mode "none", of `main_gpu` alone."""
    shares = (1.0,) if _is_alone(options) else options.tensor_split or (1.0,) * options.devices
    return layer_ranges(hp.n_layer_all, options.n_gpu_layers, shares[: options.devices or 1]) if options.devices else []


def layer_ranges(n_layer_all: int, n_gpu_layers: int, shares: Sequence[float]) -> list[range]:
    """The layers of each device; layer `n_layer_all` is the output, and leading layers in no range stay in RAM.

    `shares`: those of --tensor-split, one per device.
    """
    layers = n_layer_all + 1
    start = max(layers - n_gpu_layers, 0)
    count = max(0, min(n_gpu_layers, layers))
    positions = array("f", (i / count for i in range(count)))
    # A layer is on the first device whose cumulative share exceeds its position.
    borders = [start + bisect_left(positions, point) for point in _split_points(shares)[:-1]]
    return [range(a, b) for a, b in itertools.pairwise([start, *borders, start + count])]


def _split_points(shares: Sequence[float]) -> list[float]:
    total, points = 0.0, []
    for share in shares:
        total = _float32(total + _float32(share))
        points.append(total)
    return [_float32(point / total) if total else 1.0 for point in points]


def _float32(value: float) -> float:
    return float(_FLOAT.unpack(_FLOAT.pack(value))[0])
