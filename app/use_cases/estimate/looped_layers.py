"""Looped layers: several layers with the weights of one block, each with a cache of its own.

A layer whose cache is on another GPU than its block computes attention there: queries, keys and values are copied over,
the result is copied back. A pipeline holds every copy from the start of the graph to its end (b11549, ggml-backend.cpp,
ggml_backend_sched_split_graph), so that these add up over the layers.
"""

from __future__ import annotations

import itertools

from app.use_cases.estimate.peaks import attention_bytes, peak_bytes
from app.use_cases.estimate.pipeline_copies import MAX_COPIES, inter_gpu_copy_bytes
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape.shape import ModelShape


def looped_bytes(ubatch: Ubatch, used: list[range], index: int) -> int:
    """Bytes on device `index` of a pipeline, without masks."""
    shape, w = ubatch.shape, ubatch.w
    hp, layers = shape.hparams, used[index]
    caches, blocks = _attention_elsewhere(shape, used, index)
    copies = MAX_COPIES * (caches * w.width(shape.graph.q + shape.graph.kv + shape.graph.v) + blocks * w.q)
    returns = max(0, _entries(shape, used, index) - bool(index))
    if any(hp.block_of[il] == il for il in layers if il < hp.n_layer):
        usual = peak_bytes(ubatch, layers, has_inputs=False)
        usual += inter_gpu_copy_bytes(ubatch, used, index)
        return usual + copies + returns * 2 * MAX_COPIES * w.e
    last = w.e * (1 + MAX_COPIES * returns) if hp.n_layer_all in layers else 0
    return max(w.q, attention_bytes(ubatch, layers)) + copies + last


def _attention_elsewhere(shape: ModelShape, used: list[range], index: int) -> tuple[int, int]:
    """How many layers have their cache on this device and their block on another, and the reverse."""
    caches = blocks = 0
    for il in range(shape.hparams.n_layer):
        cache, block = _device(used, il), _device(used, shape.hparams.block_of[il])
        caches += cache == index != block
        blocks += block == index != cache
    return caches, blocks


def _entries(shape: ModelShape, used: list[range], index: int) -> int:
    """How often the residual comes to this device. nanbeige applies the output's norm after each pass."""
    hp, visits = shape.hparams, []
    normalizes = hp.architecture == "nanbeige" and hp.value("skip_loop_final_norm") is not True
    for il in range(hp.n_layer):
        visits.append(_device(used, hp.block_of[il]))
        if normalizes and il + 1 < hp.n_layer and hp.block_of[il + 1] == 0:
            visits.append(len(used) - 1)
    visits.append(len(used) - 1)
    return sum(a != b == index for a, b in itertools.pairwise(visits))


def _device(used: list[range], layer: int) -> int:
    return next((index for index, layers in enumerate(used) if layer in layers), -1)
