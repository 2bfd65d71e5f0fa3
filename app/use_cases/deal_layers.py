"""Deals a model's layers out to several GPUs so that each stays within its bytes.

The shares of --tensor-split are the numbers of layers themselves: llama.cpp's arithmetic (tensor_split.py) then cuts
exactly there, and the estimate for these shares is what is booked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from app.entities.launch import MemoryOptions
from app.entities.memory import Estimate
from app.use_cases.context_memory import context_bytes
from app.use_cases.model_shape import ModelShape
from app.use_cases.weights_memory import weights

REPAIRS = 16  # layers moved from the fullest card to the emptiest before it is given up

Estimator = Callable[[MemoryOptions], Estimate]


def deal(
    shape: ModelShape, options: MemoryOptions, usable: Sequence[int], estimate: Estimator
) -> tuple[MemoryOptions, Estimate] | None:
    """The options and the estimate of a split over cards with these usable bytes; None if there is none.

    `options` are those of all layers on GPUs.
    """
    each = layer_bytes(shape, options)
    if len(each) < len(usable):
        return None
    layers = _shared(each, usable)
    for _ in range(REPAIRS):
        split = replace(options, devices=len(usable), tensor_split=tuple(map(float, layers)), split_mode="layer")
        found = estimate(split)
        spare = [free - device.booked_bytes for free, device in zip(usable, found.devices, strict=True)]
        if min(spare) >= 0:
            return split, found
        # What a card takes beside its layers is known now: deal them out anew, then move single ones.
        dealt = _dealt(each, layers)
        beside = [device.booked_bytes - own for device, own in zip(found.devices, dealt, strict=True)]
        better: list[int] | None = _shared(each, [free - extra for free, extra in zip(usable, beside, strict=True)])
        if better == layers or sum(spare) < 0:
            better = _moved(layers, spare)
        if better is None:
            return None
        layers = better
    return None


def layer_bytes(shape: ModelShape, options: MemoryOptions) -> list[int]:
    """Weights and context of each layer on a GPU, and of the output as the last one."""
    count = shape.hparams.n_layer_all + 1
    alone = [range(il, il + 1) for il in range(count)]
    on_devices, _ = weights(shape, options, alone)
    context = context_bytes(shape, options, alone) if options.kv_offload else [0] * count
    return [a + b for a, b in zip(on_devices, context, strict=True)]


def _shared(each: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """Numbers of layers in proportion to the capacities, at least one on every card."""
    room = [max(1, free) for free in capacity]
    total, whole = sum(each), sum(room)
    sums = list(accumulate(each))
    borders, start = [], 0
    for index, reach in enumerate(accumulate(room[:-1])):
        least, most = start + 1, len(each) - (len(room) - 1 - index)
        target = total * reach / whole
        # The border nearest to the target: half a layer more or less.
        border = next((il for il in range(start, len(each)) if sums[il] - each[il] / 2 >= target), len(each))
        start = min(max(border, least), most)
        borders.append(start)
    edges = [0, *borders, len(each)]
    return [b - a for a, b in pairwise(edges)]


def _dealt(each: Sequence[int], layers: Sequence[int]) -> list[int]:
    edges = [0, *accumulate(layers)]
    return [sum(each[a:b]) for a, b in pairwise(edges)]


def _moved(layers: Sequence[int], spare: Sequence[int]) -> list[int] | None:
    """One layer from the card that lacks most to the one with most to spare."""
    giver = min(range(len(layers)), key=lambda i: spare[i])
    taker = max(range(len(layers)), key=lambda i: spare[i])
    if giver == taker or layers[giver] <= 1 or spare[taker] <= 0:
        return None
    moved = list(layers)
    moved[giver] -= 1
    moved[taker] += 1
    return moved
