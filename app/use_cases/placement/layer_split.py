"""Splits a model's layers over several GPUs so that each GPU's part fits its usable bytes.

The shares passed to --tensor-split are the layer counts themselves: llama.cpp's arithmetic (tensor_split.py) then cuts
exactly there, and the estimate for these shares is what is booked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise

from app.entities.launch import ModelOptions
from app.entities.memory import Estimate
from app.use_cases.estimate.kv_cache import context_bytes
from app.use_cases.estimate.weights import weights
from app.use_cases.model_shape.shape import ModelShape

THOUSAND = 1000  # shares of tensors are whole numbers of it
MAX_ATTEMPTS = 4  # what a GPU needs beside its layers depends on which layers it gets

Estimator = Callable[[ModelOptions], Estimate]


def split_layers(
    layer_sizes: Sequence[int],
    options: ModelOptions,
    usable: Sequence[int],
    min_overhead_bytes: int,
    estimate: Estimator,
) -> tuple[ModelOptions, Estimate] | None:
    """Options and estimate of a split over GPUs with these usable bytes; None if no split fits.

    `layer_sizes`: `layer_bytes(shape, options)`. `min_overhead_bytes`: the least a GPU needs beside its layers.
    """
    capacity = [free - min_overhead_bytes for free in usable]
    for _ in range(MAX_ATTEMPTS):
        layers = _layer_counts(layer_sizes, capacity)
        if layers is None:
            return None
        split = replace(options, devices=len(usable), tensor_split=tuple(map(float, layers)), split_mode="layer")
        found = estimate(split)
        if all(device.booked_bytes <= free for free, device in zip(usable, found.devices, strict=True)):
            return split, found
        sizes = _sums(layer_sizes, layers)
        overheads = [device.booked_bytes - size for device, size in zip(found.devices, sizes, strict=True)]
        capacity = [free - overhead for free, overhead in zip(usable, overheads, strict=True)]
    return None


def share_tensors(
    options: ModelOptions, usable: Sequence[int], estimate: Estimator
) -> tuple[ModelOptions, Estimate] | None:
    """The same with a part of every tensor on each GPU: equal ones if they fit, for the speed of the slowest counts;
    else as the GPUs have room beside what each needs as a whole."""
    count = len(usable)
    equal = replace(options, devices=count, tensor_split=(1.0,) * count)
    whole = [device.compute_bytes + device.overhead_bytes for device in estimate(equal).devices]
    room = [max(0, free - fixed) for free, fixed in zip(usable, whole, strict=True)]
    shares = tuple(float(max(1, THOUSAND * each // max(1, sum(room)))) for each in room)
    for split in (equal, replace(equal, tensor_split=shares)):
        found = estimate(split)
        if all(device.booked_bytes <= free for free, device in zip(usable, found.devices, strict=True)):
            return split, found
    return None


@lru_cache(maxsize=256)
def layer_bytes(shape: ModelShape, options: ModelOptions) -> tuple[int, ...]:
    """Bytes of weights and context of each layer on a GPU; the output is the last entry.

    Kept for the next decision about the model: adding them up was a third of each.
    """
    count = shape.hparams.n_layer_all + 1
    alone = [range(il, il + 1) for il in range(count)]
    on_devices, _ = weights(shape, options, alone)
    context = context_bytes(shape, options, alone) if options.kv_offload else [0] * count
    return tuple(a + b for a, b in zip(on_devices, context, strict=True))


def _layer_counts(sizes: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """Layers per GPU: proportional to the capacities if that fits, else filling each GPU in turn, else None."""
    layers = _proportional(sizes, capacity)
    if layers and all(size <= limit for size, limit in zip(_sums(sizes, layers), capacity, strict=True)):
        return layers
    return _filled(sizes, capacity)


def _proportional(sizes: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """At least one layer on every GPU; None if there are too few layers."""
    if len(sizes) < len(capacity) or min(capacity) <= 0:
        return None
    total, whole, sums = sum(sizes), sum(capacity), list(accumulate(sizes))
    edges = [0]
    for index, reach in enumerate(accumulate(capacity[:-1])):
        least, most = edges[-1] + 1, len(sizes) - (len(capacity) - 1 - index)
        target = total * reach / whole
        # The layer border closest to the target, within half a layer.
        closest = next((il for il in range(edges[-1], len(sizes)) if sums[il] - sizes[il] / 2 >= target), len(sizes))
        edges.append(min(max(closest, least), most))
    return [b - a for a, b in pairwise([*edges, len(sizes)])]


def _filled(sizes: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """Each GPU filled in turn. If layers are left over, no split in this order fits."""
    layers, next_ = [], 0
    for index, limit in enumerate(capacity):
        start, left, gpus_after = next_, limit, len(capacity) - 1 - index
        while next_ < len(sizes) - gpus_after and sizes[next_] <= left:
            left -= sizes[next_]
            next_ += 1
        if next_ == start:
            return None
        layers.append(next_ - start)
    return layers if next_ == len(sizes) else None


def _sums(sizes: Sequence[int], layers: Sequence[int]) -> list[int]:
    """Bytes of the layers on each GPU."""
    edges = [0, *accumulate(layers)]
    return [sum(sizes[a:b]) for a, b in pairwise(edges)]
