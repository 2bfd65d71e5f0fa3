"""Which layers go to which GPU, by llama.cpp's own arithmetic (b11434, llama_model_base::load_tensors).

It computes in float32, and a share that falls on the border between two layers goes where float32 rounds it: so does
this.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence

_FLOAT = struct.Struct("<f")


def layer_ranges(n_layer_all: int, n_gpu_layers: int, shares: Sequence[float]) -> list[range]:
    """The layers of each device; the last layer, number `n_layer_all`, is the output. The first ones that are in no
    range stay on the CPU. `shares` are those of --tensor-split, one per device."""
    layers = n_layer_all + 1
    start = max(layers - n_gpu_layers, 0)
    count = min(n_gpu_layers, layers)
    splits = _split_points(shares)
    borders = [start]
    devices = [min(bisect_right(splits, _float32(i / count)), len(splits) - 1) for i in range(count)]
    for device in range(len(splits)):
        borders.append(borders[-1] + devices.count(device))
    return [range(a, b) for a, b in zip(borders, borders[1:], strict=False)]


def _split_points(shares: Sequence[float]) -> list[float]:
    total, points = 0.0, []
    for share in shares:
        total = _float32(total + _float32(share))
        points.append(total)
    return [_float32(point / total) if total else 1.0 for point in points]


def _float32(value: float) -> float:
    return float(_FLOAT.unpack(_FLOAT.pack(value))[0])
