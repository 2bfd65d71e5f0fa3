"""Split modes that give every GPU a part of each tensor: row and tensor.

Source: llama.cpp b11549, ggml-backend-meta.cpp and ggml-cuda's split buffers. Neither reports its memory by GPU before
it loads, so one GPU's weights and context are divided by --tensor-split, with a computation of full size on each GPU,
and confidence is low.
"""

from __future__ import annotations

import math
from dataclasses import replace

from app.entities.launch import ModelOptions
from app.entities.memory import DeviceMemory, Estimate
from app.use_cases.estimate.families import UNKNOWN_MARGIN

SHARED_MODES = frozenset({"row", "tensor"})


def is_shared(options: ModelOptions) -> bool:
    return options.split_mode in SHARED_MODES and options.devices > 1


def on_one_gpu(options: ModelOptions) -> ModelOptions:
    """The options with which one GPU holds the whole."""
    unmeasured = (*options.unmeasured, f"--split-mode {options.split_mode}")
    return replace(options, devices=1, tensor_split=(), split_mode="layer", unmeasured=unmeasured)


def divided_estimate(whole: Estimate, options: ModelOptions) -> Estimate:
    """The estimate for one GPU, divided among those of the options."""
    shares = options.tensor_split or (1.0,) * options.devices
    total = sum(shares) or 1.0
    return replace(whole, devices=tuple(_part(whole.devices[0], share / total) for share in shares))


def _part(whole: DeviceMemory, share: float) -> DeviceMemory:
    weights, context = math.ceil(share * whole.weights_bytes), math.ceil(share * whole.context_bytes)
    items = weights, context, whole.compute_bytes
    return DeviceMemory(*items, whole.overhead_bytes, round(UNKNOWN_MARGIN * sum(items)))
