"""Split modes that give every GPU a part of each tensor: row and tensor.

With split mode tensor each GPU has its share of one GPU's weights and context by --tensor-split, but the whole of an
output matrix that is also the embedding, and a compute buffer of full size (llama.cpp b11549, ggml-backend-meta.cpp;
8 rows of 4 models are within 2.5 %, as tensors are divided by blocks). Row is taken for the same, which was not
measured. Confidence is low for both.
"""

from __future__ import annotations

import math
from dataclasses import replace

from app.entities.launch import ModelOptions
from app.entities.memory import DeviceMemory, Estimate
from app.use_cases.estimate.families import UNKNOWN_MARGIN

SHARED_MODES = frozenset({"row", "tensor"})

# Architectures that llama.cpp does not split by tensors (b11549, llama-arch.cpp, llm_arch_supports_sm_tensor).
_NEVER_BY_TENSORS = (
    *("grok", "mpt", "plamo2", "minicpm3", "gemma3n", "mamba", "mamba2", "jamba", "falcon-h1", "olmo2", "olmoe"),
    *("deepseek2", "deepseek32", "hy_v4", "dots3note", "glm-dsa", "bitnet", "t5", "nemotron_h", "nemotron_h_moe"),
    *("granitehybrid", "minimax-01", "minimax-m2", "minimax-m3", "mistral4", "kimi-linear", "bailingmoe3", "kimi-k3"),
    *("glm5-next", "qwen3tts"),
)


def can_share(architecture: str, options: ModelOptions) -> bool:
    """Whether the options ask for shared tensors, and llama.cpp shares those of this architecture."""
    is_possible = options.split_mode != "tensor" or architecture not in _NEVER_BY_TENSORS
    return options.split_mode in SHARED_MODES and is_possible


def is_shared(options: ModelOptions) -> bool:
    return options.split_mode in SHARED_MODES and options.devices > 1


def on_one_gpu(options: ModelOptions) -> ModelOptions:
    """The options with which one GPU holds the whole."""
    unmeasured = (*options.unmeasured, f"--split-mode {options.split_mode}")
    return replace(options, devices=1, tensor_split=(), split_mode="layer", unmeasured=unmeasured)


def divided_estimate(whole: Estimate, options: ModelOptions, copied_bytes: int) -> Estimate:
    """The estimate for one GPU, divided among those of the options. `copied_bytes`: weights that each has."""
    shares = options.tensor_split or (1.0,) * options.devices
    total = sum(shares) or 1.0
    return replace(whole, devices=tuple(_part(whole.devices[0], share / total, copied_bytes) for share in shares))


def _part(whole: DeviceMemory, share: float, copied_bytes: int) -> DeviceMemory:
    weights = copied_bytes + math.ceil(share * max(0, whole.weights_bytes - copied_bytes))
    context = math.ceil(share * whole.context_bytes)
    items = weights, context, whole.compute_bytes
    return DeviceMemory(*items, whole.overhead_bytes, round(UNKNOWN_MARGIN * sum(items)))
