"""Expert copies: how many expert tensors from RAM the first device holds at once while it computes with them.

Each is copied in for one operation and freed after it, so one at a time would be enough; whether the next one fits into
the gap that the last one left is decided by ggml-alloc (b11549, ggml-alloc.c: ggml_dyn_tallocr_alloc).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from app.entities.launch import ModelOptions
from app.use_cases.estimate.graph_rules import Rule, Work
from app.use_cases.estimate.tensor_overrides import MovedTensors
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape.shape import ModelShape

# ffn_down_exps is marked GGML_PREC_F32 (llama-graph.cpp, build_moe_ffn), which CUDA refuses for MUL_MAT_ID
# (ggml-cuda.cu, ggml_backend_cuda_device_supports_op): the CPU multiplies, and the result comes back.
EXPERTS_ON_CPU = ("mistral4",)
# The next expert tensor is copied in before the previous one is freed, even if both have the same size.
EQUAL_EXPERTS_OVERLAP = frozenset({"qwen3next", "qwen35moe", "kimi-linear"})
# In these the gaps are large enough, whatever mask comes late.
_ONE_AT_A_TIME = frozenset({"glm5-next", "qwen4exp"})
# Results alive together with an expert tensor, twice or more: fitted to one model each.
_ALIVE: Mapping[str, Rule] = {
    **dict.fromkeys(("cohere2moe", "laguna"), lambda w: 2 * w.expert_e + 3 * w.e),
    "step35": lambda w: 2 * w.expert_e + w.expert_ff + 3 * w.e,
    "dots3note": lambda w: 2 * w.expert_e + w.expert_ff + w.e,
    "glm5-next": lambda w: 2 * w.expert_e + w.expert_ff + w.shared_ff + 2 * w.e,
    "qwen4exp": lambda w: 2 * w.expert_e + w.expert_ff + 2 * w.e,
    "kimi-k3": lambda w: 2 * w.expert_e + 2 * w.expert_ff + 4 * w.e,
    "qwen3vlmoe": lambda w: w.expert_e + w.expert_ff + 18 * w.e,
    "deepseek4": lambda w: 2 * w.q + 13 * w.e // 3,
}
# On one GPU that computes all layers, none of the gaps that sparse attention leaves is large enough to be reused.
_ALIVE_ON_ONE_GPU: Mapping[str, Rule] = {
    "deepseek32": lambda w: 222 * w.e // 7,
    "glm-dsa": lambda w: 122 * w.e // 3,
    "hy_v4": lambda w: 47 * w.e,
}


def copied_experts_bytes(ubatch: Ubatch, moved: MovedTensors) -> int:
    """Peak bytes while a layer computes with experts from RAM, without masks."""
    shape, w = ubatch.shape, ubatch.w
    largest, used = shape.largest_expert_bytes, w.expert_ff + w.expert_e
    if w.shape.architecture in EXPERTS_ON_CPU:  # ffn_down_exps, the largest, is not copied
        return shape.two_experts_bytes - largest + used + 2 * w.e
    one = max(one_copied_expert_bytes(shape, w), largest + _alive_with_expert_bytes(ubatch.options, w))
    return max(one, shape.expert_pair_bytes + 6 * w.e if _holds_two(ubatch, moved) else 0)


def one_copied_expert_bytes(shape: ModelShape, w: Work) -> int:
    """Peak bytes while a layer computes with one expert tensor from RAM; 0 without experts."""
    after = 2 * w.expert_e + 5 * w.e if w.shape.architecture in EQUAL_EXPERTS_OVERLAP else 0
    largest = shape.largest_expert_bytes
    return largest + max(w.expert_ff + w.expert_e + 4 * w.e, after) if largest else 0


def _alive_with_expert_bytes(options: ModelOptions, w: Work) -> int:
    """What is alive together with an expert tensor, in architectures that need a rule of their own."""
    rule = _ALIVE.get(w.shape.architecture)
    if options.devices == 1:
        rule = _ALIVE_ON_ONE_GPU.get(w.shape.architecture, rule)
    return rule(w) if rule else 0


def experts_alone_bytes(shape: ModelShape, w: Work) -> int:
    """Peak bytes of a device that computes experts from RAM and nothing else.

    With few tokens the gaps are small, and two tensors of a layer are held at once.
    """
    largest = shape.largest_expert_bytes
    return max(shape.two_experts_bytes + w.e, largest + 2 * w.expert_e + max(3 * w.e, w.expert_ff))


def uncounted_expert_bytes(ubatch: Ubatch, moved: MovedTensors) -> int:
    """Bytes of a second expert tensor, where one was counted but the gaps may be too small to reuse."""
    w = ubatch.w
    if not (moved.emptied or ubatch.options.n_cpu_moe) or _holds_two(ubatch, moved):
        return 0
    late = _late_masks(ubatch, moved)
    next_layer = [count for count in _late_masks(ubatch, moved, after=1) if 2 * count * w.tokens >= w.e]
    second = max(0, ubatch.shape.expert_pair_bytes - ubatch.shape.largest_expert_bytes)  # a damaged file may have none
    return second if late or next_layer else 0


def _holds_two(ubatch: Ubatch, moved: MovedTensors) -> bool:
    """Whether an expert tensor is copied in while a mask takes up the place of the one before it.

    A mask is copied in with the first layer that reads it and stays (ggml_backend_sched_split_graph). If that is after
    a layer with experts in RAM, and the mask fills more than the small gaps, ggml_dyn_tallocr_alloc puts it where that
    layer's expert tensors were; the next one no longer fits in there.
    """
    shape, w = ubatch.shape, ubatch.w
    if shape.graph.architecture in _ONE_AT_A_TIME:
        return False
    if not (shape.has_mixed_experts or shape.graph.architecture in EQUAL_EXPERTS_OVERLAP):
        return False
    return any(2 * tokens * w.tokens >= w.e for tokens in _late_masks(ubatch, moved))


def _late_masks(ubatch: Ubatch, moved: MovedTensors, after: int = 2) -> list[int]:
    """Cells of the masks first read `after` layers after the first experts in RAM, or later, if more experts follow."""
    shape = ubatch.shape
    first = bisect_left(shape.experts, 1) - 1
    last = min(ubatch.options.n_cpu_moe, shape.hparams.n_layer) - 1
    if moved.emptied:
        first, last = min(moved.emptied), max(last, *moved.emptied)
    kinds = ((shape.reads_base, ubatch.cells.base), (shape.reads_window, ubatch.cells.window))
    return [count for reads, count in kinds if reads[-1] and first + after <= bisect_left(reads, 1) - 1 <= last]
