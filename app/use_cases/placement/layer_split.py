"""Deals a model's layers out to several GPUs so that each stays within its bytes.

The shares of --tensor-split are the numbers of layers themselves: llama.cpp's arithmetic (tensor_split.py) then cuts
exactly there, and the estimate for these shares is what is booked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from app.entities.launch import ModelOptions
from app.entities.memory import Estimate
from app.use_cases.estimate.context import context_bytes
from app.use_cases.estimate.weights import weights
from app.use_cases.model_shape.shape import ModelShape

ATTEMPTS = 4  # what a card takes beside its layers depends on which they are

Estimator = Callable[[ModelOptions], Estimate]


def deal(
    each: Sequence[int], options: ModelOptions, usable: Sequence[int], beside_bytes: int, estimate: Estimator
) -> tuple[ModelOptions, Estimate] | None:
    """The options and the estimate of a split over cards with these usable bytes; None if there is none.

    `each` is what `layer_bytes` says for `options`, which are those of all layers on GPUs; `beside_bytes` the least
    that a card takes beside its layers.
    """
    capacity = [free - beside_bytes for free in usable]
    for _ in range(ATTEMPTS):
        layers = _dealt_out(each, capacity)
        if layers is None:
            return None
        split = replace(options, devices=len(usable), tensor_split=tuple(map(float, layers)), split_mode="layer")
        found = estimate(split)
        if all(device.booked_bytes <= free for free, device in zip(usable, found.devices, strict=True)):
            return split, found
        own = _sums(each, layers)
        beside = [device.booked_bytes - size for device, size in zip(found.devices, own, strict=True)]
        capacity = [free - extra for free, extra in zip(usable, beside, strict=True)]
    return None


def layer_bytes(shape: ModelShape, options: ModelOptions) -> list[int]:
    """Weights and context of each layer on a GPU, and of the output as the last one."""
    count = shape.hparams.n_layer_all + 1
    alone = [range(il, il + 1) for il in range(count)]
    on_devices, _ = weights(shape, options, alone)
    context = context_bytes(shape, options, alone) if options.kv_offload else [0] * count
    return [a + b for a, b in zip(on_devices, context, strict=True)]


def _dealt_out(each: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """Numbers of layers: in proportion to the capacities where that keeps within them, else as many as go."""
    layers = _in_proportion(each, capacity)
    if layers and all(size <= room for size, room in zip(_sums(each, layers), capacity, strict=True)):
        return layers
    return _filled(each, capacity)


def _in_proportion(each: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """At least one on every card; None where there are too few."""
    if len(each) < len(capacity) or min(capacity) <= 0:
        return None
    total, whole, sums = sum(each), sum(capacity), list(accumulate(each))
    edges = [0]
    for index, reach in enumerate(accumulate(capacity[:-1])):
        least, most = edges[-1] + 1, len(each) - (len(capacity) - 1 - index)
        target = total * reach / whole
        # The border nearest to the target: half a layer more or less.
        nearest = next((il for il in range(edges[-1], len(each)) if sums[il] - each[il] / 2 >= target), len(each))
        edges.append(min(max(nearest, least), most))
    return [b - a for a, b in pairwise([*edges, len(each)])]


def _filled(each: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """One card after the other filled up. If that leaves layers over, no other way in this order holds them."""
    layers, next_ = [], 0
    for index, room in enumerate(capacity):
        start, left, behind = next_, room, len(capacity) - 1 - index
        while next_ < len(each) - behind and each[next_] <= left:
            left -= each[next_]
            next_ += 1
        if next_ == start:
            return None
        layers.append(next_ - start)
    return layers if next_ == len(each) else None


def _sums(each: Sequence[int], layers: Sequence[int]) -> list[int]:
    """Bytes of the layers on each card."""
    edges = [0, *accumulate(layers)]
    return [sum(each[a:b]) for a, b in pairwise(edges)]
